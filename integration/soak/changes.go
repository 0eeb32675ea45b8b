//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// changer holds the current state of all Services and changes it at random. Its methods are called by one goroutine.
type changer struct {
	population
	manifests
	random    *rand.Rand
	endpoints [][]int // of each Service, positions in its pool; nil if the Service does not exist

	existing, changes atomic.Int64
}

// newChanger creates all Services, each with two endpoints.
func newChanger(c population, m manifests, seed uint64) (*changer, error) {
	ch := &changer{population: c, manifests: m, random: rand.New(rand.NewPCG(seed, 1)), endpoints: make([][]int, c.services)}
	for i := range ch.endpoints {
		if err := ch.set(service(i), []int{0, 1}); err != nil {
			return nil, err
		}
	}
	ch.changes.Store(0)
	return ch, nil
}

// run makes rate changes a second until ctx ends.
func (c *changer) run(ctx context.Context, rate int) error {
	start, done := time.Now(), 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := int(time.Since(start).Seconds() * float64(rate)); done < due; done++ {
			if err := c.change(); err != nil {
				return err
			}
		}
	}
}

// change changes one Service: as likely one of class changing as one of class passing.
func (c *changer) change() error {
	of := class(c.random.IntN(2)) + changing
	s := service(c.first(of) + c.random.IntN(c.count(of)))
	switch now := c.endpoints[s]; {
	case now == nil:
		return c.set(s, c.draw())
	case of == passing && c.random.IntN(3) == 0:
		return c.set(s, nil)
	default:
		return c.set(s, c.edit(now))
	}
}

// draw returns some positions of a pool.
func (c *changer) draw() []int { return c.random.Perm(poolSize)[:1+c.random.IntN(mostEndpoints)] }

// edit returns the endpoints with one added, one removed or one replaced, or others altogether. It returns at least one.
func (c *changer) edit(now []int) []int {
	i := c.random.IntN(len(now))
	absent := slices.DeleteFunc(c.random.Perm(poolSize), func(p int) bool { return slices.Contains(now, p) })
	switch edit := c.random.IntN(4); {
	case edit == 0 && len(now) < mostEndpoints:
		return append(slices.Clone(now), absent[0])
	case edit == 1 && len(now) > 1:
		return slices.Delete(slices.Clone(now), i, i+1)
	case edit == 2:
		return c.draw()
	default:
		next := slices.Clone(now)
		next[i] = absent[0]
		return next
	}
}

// set gives a Service these endpoints and creates it if necessary. It deletes the Service if endpoints is nil.
func (c *changer) set(s service, endpoints []int) error {
	existed := c.endpoints[s] != nil
	c.endpoints[s] = endpoints
	c.changes.Add(1)
	if endpoints == nil {
		c.existing.Add(-1)
		return c.manifests.remove(s)
	}
	if !existed {
		c.existing.Add(1)
	}
	return c.manifests.write(s, endpoints)
}
