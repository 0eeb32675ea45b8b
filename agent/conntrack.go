package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"nfproxy/nft"

	"nfproxy/render"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
)

// sweeper deletes stale entries of the connection tracking, in a goroutine of its own: programming never waits
// for it. A nil one does nothing.
type conntrackCleaner struct {
	flows *ctnetlink.Conn
	log   *slog.Logger
	// observe, if not nil, is told of every sweep: how many entries of the family went, and the time it took. It is
	// called by the sweeper's goroutine.
	observe func(family nft.Family, deleted int, took time.Duration)

	mu    sync.Mutex // held for one entry at a time, never for a list
	index *render.FlowIndex
	// strays, if not nil, tells connections that are to be looked for.
	strays *render.UntranslatedFlows

	wake  chan struct{}
	stop  context.CancelFunc
	ended chan struct{}
}

// newSweeper returns a sweeper that has begun. It sweeps everything when Programmed is called for the first time. The
// flows are the sweeper's until Close returns; they are not closed.
func newConntrackCleaner(flows *ctnetlink.Conn, log *slog.Logger, observe func(nft.Family, int, time.Duration)) *conntrackCleaner {
	ctx, stop := context.WithCancel(context.Background())
	s := &conntrackCleaner{flows: flows, log: log, observe: observe, index: render.NewFlowIndex(),
		wake: make(chan struct{}, 1), stop: stop, ended: make(chan struct{})}
	go s.run(ctx)
	return s
}

// Take takes over what changed.
func (s *conntrackCleaner) Take(u render.Update) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.Take(u)
}

// Programmed says that the kernel has all that was taken, by these changes. It is to be called also when there was
// nothing to change: an endpoint that serves while it terminates can go without.
func (s *conntrackCleaner) Programmed(changes []nft.Change) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.Programmed(changes)
	s.poke()
}

// WentAstray says that the tables were not there for a time, and how to tell the connections that began in it.
func (s *conntrackCleaner) WentAstray(strays render.UntranslatedFlows) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strays = &strays
	s.poke()
}

// poke has the sweeper look for what is due.
func (s *conntrackCleaner) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close ends the sweeper and waits until it has. A list under way is read to its end, but nothing more is deleted.
func (s *conntrackCleaner) Close() {
	if s == nil {
		return
	}
	s.stop()
	<-s.ended
}

// Bounds of the time between attempts when connection tracking cannot be read or changed.
const (
	minSweepBackoff = 100 * time.Millisecond
	maxSweepBackoff = 30 * time.Second
)

// After a sweep the sweeper rests for restFactor times as long as it took, maxRest at most: with changes all the time it
// takes a small part of a processor, and what changed meanwhile is swept in one.
const (
	restFactor = 4
	maxRest    = 500 * time.Millisecond
)

// run sweeps what is due until ctx ends.
func (s *conntrackCleaner) run(ctx context.Context) {
	defer close(s.ended)
	var backoff time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-after(backoff):
		}
		start := time.Now()
		err := s.sweep(ctx)
		pause := min(restFactor*time.Since(start), maxRest)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			backoff = min(max(2*backoff, minSweepBackoff), maxSweepBackoff)
			s.log.Error("could not sweep stale flows", "error", err, "retry", backoff)
		default:
			backoff = 0
		}
		sleep(ctx, pause)
	}
}

// after is time.After, never for 0.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// sweep deletes what is stale and what went astray.
func (s *conntrackCleaner) sweep(ctx context.Context) error {
	return errors.Join(s.sweepStale(ctx), s.sweepStrays(ctx))
}

// sweepStrays lists all of TCP: there is no other way, and it is seldom.
func (s *conntrackCleaner) sweepStrays(ctx context.Context) error {
	s.mu.Lock()
	strays := s.strays
	s.strays = nil
	s.mu.Unlock()
	if strays == nil {
		return nil
	}
	var failed []error
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		deleted, err := s.sweepFlows(ctx, conntrack.Filter{Family: family, Protocol: nft.TCP}, func(f conntrack.Flow) (bool, render.Reason) {
			return strays.Has(f), render.FlowUntranslated
		})
		if deleted > 0 {
			s.log.Info("connections that began without rules find their Services now", "family", family, "connections", deleted)
		}
		failed = append(failed, err)
	}
	err := errors.Join(failed...)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.strays == nil { // else there is something newer to look for
			s.strays = strays
		}
	}
	return err
}

// sweepStale lists what is due, judges it and deletes what is stale.
func (s *conntrackCleaner) sweepStale(ctx context.Context) error {
	s.mu.Lock()
	due, ok := s.index.Next()
	s.mu.Unlock()
	if !ok {
		return nil
	}
	tallies, err := s.carryOut(ctx, due)
	s.mu.Lock()
	if err == nil && ctx.Err() == nil {
		s.index.CleanedUp(due)
	} else {
		s.index.Failed(due)
	}
	s.mu.Unlock()
	s.report(tallies)
	return err
}

// sweepTally is what a sweep did to one family.
type sweepTally struct {
	deleted int
	took    time.Duration
}

func (s *conntrackCleaner) carryOut(ctx context.Context, due render.FlowCleanup) (map[nft.Family]sweepTally, error) {
	tallies := make(map[nft.Family]sweepTally)
	var failed []error
	for _, filter := range due.Filters {
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		deleted, err := s.sweepFlows(ctx, filter, func(f conntrack.Flow) (bool, render.Reason) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.index.Judge(f)
		})
		if err != nil {
			failed = append(failed, err)
		}
		t := tallies[filter.Family]
		tallies[filter.Family] = sweepTally{t.deleted + deleted, t.took + time.Since(start)}
	}
	return tallies, errors.Join(failed...)
}

// sweepFlows deletes those of the flows that match the filter which are judged stale. The first that cannot be deleted is
// the error.
func (s *conntrackCleaner) sweepFlows(ctx context.Context, filter conntrack.Filter,
	judge func(conntrack.Flow) (stale bool, why render.Reason)) (deleted int, err error) {
	listed := s.flows.List(filter, func(f conntrack.Flow) {
		if ctx.Err() != nil {
			return
		}
		stale, why := judge(f)
		if !stale {
			return
		}
		if e := s.flows.Delete(f); e != nil {
			if err == nil {
				err = e
			}
			return
		}
		deleted++
		s.log.Debug("stale flow deleted", "flow", f, "why", why)
	})
	return deleted, errors.Join(listed, err)
}

func (s *conntrackCleaner) report(tallies map[nft.Family]sweepTally) {
	for family, t := range tallies {
		level := slog.LevelDebug
		if t.deleted > 0 {
			level = slog.LevelInfo
		}
		s.log.Log(context.Background(), level, "swept flows", "family", family, "deleted", t.deleted,
			"took", t.took.Round(time.Microsecond))
		if s.observe != nil {
			s.observe(family, t.deleted, t.took)
		}
	}
}
