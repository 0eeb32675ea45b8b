package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
	"nfproxy/nft"
	"nfproxy/render"
)

// conntrackCleaner deletes stale conntrack entries. It works in a task of its own, so that programming never waits for it.
type conntrackCleaner struct {
	flows *ctnetlink.Conn
	log   *slog.Logger
	// observe is told of every cleanup: how many entries of the family were deleted, and the time that it took. It is called
	// by run.
	observe func(family nft.Family, deleted int, took time.Duration)

	mu    sync.Mutex // held for one entry at a time, never for a whole list
	index *render.FlowIndex
	// untranslated, if not nil, tells which TCP connections are to be deleted because they began without rules.
	untranslated *render.UntranslatedFlows

	wake chan struct{}
}

// newConntrackCleaner returns a cleaner that uses flows. Its first cleanup, after the first Programmed, covers everything.
func newConntrackCleaner(flows *ctnetlink.Conn, log *slog.Logger, observe func(nft.Family, int, time.Duration)) *conntrackCleaner {
	return &conntrackCleaner{flows: flows, log: log, observe: observe, index: render.NewFlowIndex(), wake: make(chan struct{}, 1)}
}

// Take applies an Update. owner is Ruleset.Owner.
func (c *conntrackCleaner) Take(u render.Update, owner func(render.Frontend) render.ServiceName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index.Take(u, owner)
}

// Programmed notes that the kernel has everything that was taken, by these changes. It has to be called even if there was
// nothing to change: an endpoint that serves while it terminates can go without a change.
func (c *conntrackCleaner) Programmed(changes []nft.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index.Programmed(changes)
	c.poke()
}

// DeleteUntranslated has the connections deleted that began while the tables did not exist.
func (c *conntrackCleaner) DeleteUntranslated(flows render.UntranslatedFlows) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.untranslated = &flows
	c.poke()
}

// poke has run look for what is due.
func (c *conntrackCleaner) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Bounds of the time between attempts if connection tracking cannot be read or changed.
const (
	minCleanupBackoff = 100 * time.Millisecond
	maxCleanupBackoff = 30 * time.Second
)

// After a cleanup the cleaner rests for restFactor times as long as the cleanup took, maxRest at most. Under continuous change
// it therefore takes a small share of a processor, and one cleanup covers everything that changed meanwhile.
const (
	restFactor = 4
	maxRest    = 500 * time.Millisecond
)

// run cleans up what is due until ctx ends. A list in progress is then read to its end, but nothing more is deleted.
func (c *conntrackCleaner) run(ctx context.Context) error {
	var backoff time.Duration
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-after(backoff):
		}
		start := time.Now()
		err := errors.Join(c.deleteStale(ctx), c.deleteUntranslated(ctx))
		rest := min(restFactor*time.Since(start), maxRest)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			backoff = min(max(2*backoff, minCleanupBackoff), maxCleanupBackoff)
			c.log.Error("could not delete stale flows", "error", err, "retry", backoff)
		default:
			backoff = 0
		}
		sleep(ctx, rest)
	}
}

// after is time.After, but never fires for 0.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// deleteUntranslated lists all TCP entries: the kernel offers no filter for untranslated ones, and this happens rarely.
func (c *conntrackCleaner) deleteUntranslated(ctx context.Context) error {
	c.mu.Lock()
	flows := c.untranslated
	c.untranslated = nil
	c.mu.Unlock()
	if flows == nil {
		return nil
	}
	var failed []error
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		deleted, err := c.deleteFlows(ctx, conntrack.Filter{Family: family, Protocol: nft.TCP}, func(f conntrack.Flow) (bool, render.Reason) {
			return flows.Has(f), render.FlowUntranslated
		})
		if deleted > 0 {
			c.log.Info("deleted connections that began without rules", "family", family, "connections", deleted)
		}
		failed = append(failed, err)
	}
	err := errors.Join(failed...)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.untranslated == nil { // otherwise there is a newer request
			c.untranslated = flows
		}
	}
	return err
}

// deleteStale lists the flows that are due, judges each and deletes the stale ones.
func (c *conntrackCleaner) deleteStale(ctx context.Context) error {
	c.mu.Lock()
	due, ok := c.index.Next()
	c.mu.Unlock()
	if !ok {
		return nil
	}
	results, err := c.cleanUp(ctx, due)
	c.mu.Lock()
	if err == nil && ctx.Err() == nil {
		c.index.CleanedUp(due)
	} else {
		c.index.Failed(due)
	}
	c.mu.Unlock()
	c.report(results)
	return err
}

// cleanupResult is the result of a cleanup for one family.
type cleanupResult struct {
	deleted int
	took    time.Duration
}

func (c *conntrackCleaner) cleanUp(ctx context.Context, due render.FlowCleanup) (map[nft.Family]cleanupResult, error) {
	results := make(map[nft.Family]cleanupResult)
	var failed []error
	for _, filter := range due.Filters {
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		deleted, err := c.deleteFlows(ctx, filter, func(f conntrack.Flow) (bool, render.Reason) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.index.Judge(f)
		})
		if err != nil {
			failed = append(failed, err)
		}
		r := results[filter.Family]
		results[filter.Family] = cleanupResult{r.deleted + deleted, r.took + time.Since(start)}
	}
	return results, errors.Join(failed...)
}

// deleteFlows deletes the flows that match the filter and are judged stale. The error is that of the first flow that could
// not be deleted.
func (c *conntrackCleaner) deleteFlows(ctx context.Context, filter conntrack.Filter,
	judge func(conntrack.Flow) (stale bool, why render.Reason)) (deleted int, err error) {
	listed := c.flows.List(filter, func(f conntrack.Flow) {
		if ctx.Err() != nil {
			return
		}
		stale, why := judge(f)
		if !stale {
			return
		}
		if e := c.flows.Delete(f); e != nil {
			if err == nil {
				err = e
			}
			return
		}
		deleted++
		c.log.Debug("stale flow deleted", "flow", f, "why", why)
	})
	return deleted, errors.Join(listed, err)
}

// report logs the results and hands them to observe.
func (c *conntrackCleaner) report(results map[nft.Family]cleanupResult) {
	for family, r := range results {
		level := slog.LevelDebug
		if r.deleted > 0 {
			level = slog.LevelInfo
		}
		c.log.Log(context.Background(), level, "deleted stale flows", "family", family, "deleted", r.deleted,
			"took", r.took.Round(time.Microsecond))
		c.observe(family, r.deleted, r.took)
	}
}
