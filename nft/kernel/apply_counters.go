package kernel

// Counters of replaced elements.

import (
	"cmp"
	"fmt"
	"slices"

	"nfproxy/nft"
)

// keepCounters sets the counters of the elements that changes replace or add: each continues the counter that the kernel
// has for the same counter key. If several elements have one counter key, the first of them continues the sum. What is counted between this reading and the commit, some microseconds, is lost.
func (c *Conn) keepCounters(changes []nft.Change) ([]nft.Change, error) {
	kept := changes
	for _, s := range countingSets(changes) {
		counters, err := c.readCounters(s, changes)
		if err != nil {
			return nil, err
		}
		if &kept[0] == &changes[0] {
			kept = slices.Clone(changes)
		}
		for i, ch := range kept {
			if e, ok := ch.Object.(nft.Elements); ok && e.Set == s && ch.Op != nft.Delete {
				kept[i].Object = nft.Elements{Set: s, List: c.withCounters(s, e.List, counters)}
			}
		}
	}
	return kept, nil
}

// countingSets returns the sets with counters in which changes replace elements.
func countingSets(changes []nft.Change) []*nft.Set {
	var sets []*nft.Set
	for _, ch := range changes {
		if e, ok := ch.Object.(nft.Elements); ok && ch.Op == nft.Replace && e.Set.Counter && !slices.Contains(sets, e.Set) {
			sets = append(sets, e.Set)
		}
	}
	return sets
}

// readCounters reads the counters of the elements of a set that changes replace or delete. The result is indexed by
// counter key.
func (c *Conn) readCounters(s *nft.Set, changes []nft.Change) (map[nft.Value]*nft.Counter, error) {
	counters := make(map[nft.Value]*nft.Counter)
	for _, ch := range changes {
		e, ok := ch.Object.(nft.Elements)
		if !ok || e.Set != s || ch.Op == nft.Add {
			continue
		}
		for chunk := range slices.Chunk(e.List, keysPerRequest) {
			err := c.readKeys(s, chunk, func(got nft.Element) {
				key := c.counterKey(s, got)
				counters[key] = sum(counters[key], got.Counter)
			})
			if err != nil {
				return nil, fmt.Errorf("read counters of %s %s: %w", s.Table, s.Name, err)
			}
		}
	}
	return counters, nil
}

// sum returns the sum of two counters, of which each can be nil.
func sum(a, b *nft.Counter) *nft.Counter {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return &nft.Counter{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes}
}

// withCounters returns a copy of the list with the counters of its elements set, and removes these from counters.
func (c *Conn) withCounters(s *nft.Set, list []nft.Element, counters map[nft.Value]*nft.Counter) []nft.Element {
	list = slices.Clone(list)
	for i, el := range list {
		key := c.counterKey(s, el)
		list[i].Counter = counters[key]
		delete(counters, key)
	}
	return list
}

func (c *Conn) counterKey(s *nft.Set, e nft.Element) nft.Value {
	if c.CounterKey == nil {
		return e.Key
	}
	return c.CounterKey(s, e)
}
