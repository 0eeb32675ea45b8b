package agent

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
	"nfproxy/nft"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// conntrackCleaner deletes stale conntrack entries. It works in a task of its own, so that programming never waits for it.
type conntrackCleaner struct {
	flows *ctnetlink.Conn
	log   *slog.Logger
	lines *ratelimit.Log // of deletions, which Services can cause at any rate
	// observe is told of every cleanup: how many entries of the family were deleted, and the time that it took. It is called
	// by run.
	observe func(family nft.Family, deleted int, took time.Duration)

	mu    sync.Mutex // held for one entry at a time, never for a whole list
	index *render.FlowIndex
	// untranslated are the TCP connections that are to be deleted because they began without rules.
	untranslated render.UntranslatedFlows
	// gone finds the TCP connections to endpoints that are gone, nil to leave them alone. reset is told how many of their entries
	// were deleted, and loose reports whether a packet in the middle of a connection begins a new entry.
	gone  *render.GoneEndpoints
	reset func(family nft.Family, deleted int)
	loose func() bool

	wake chan struct{}
}

// newConntrackCleaner returns a cleaner that uses flows. Its first cleanup, after the first Programmed, covers everything.
func newConntrackCleaner(flows *ctnetlink.Conn, log *slog.Logger, observe func(nft.Family, int, time.Duration)) *conntrackCleaner {
	return &conntrackCleaner{flows: flows, log: log, lines: ratelimit.NewLog(log, ratelimit.Burst), observe: observe, index: render.NewFlowIndex(), wake: make(chan struct{}, 1)}
}

// Take applies an Update. owner is Ruleset.Owner.
func (c *conntrackCleaner) Take(u render.Update, owner func(render.Frontend) render.ServiceName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index.Take(u, owner)
	if c.gone != nil {
		c.gone.Take(u)
	}
}

// Programmed notes that the kernel has everything that was taken, by these changes. It has to be called even if there was
// nothing to change: an endpoint that serves while it terminates can go without a change.
func (c *conntrackCleaner) Programmed(changes []nft.Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index.Programmed(changes)
	if c.gone != nil {
		c.gone.Programmed(time.Now())
	}
	c.poke()
}

// DeleteUntranslated has the connections deleted that began without rules.
func (c *conntrackCleaner) DeleteUntranslated(flows render.UntranslatedFlows) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.untranslated = flows.And(c.untranslated)
	c.poke()
}

// poke has run look for what is due.
func (c *conntrackCleaner) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run cleans up what is due until ctx ends. A list in progress is then read to its end, but nothing more is deleted.
func (c *conntrackCleaner) run(ctx context.Context) error {
	runtime.LockOSThread() // for threadTime
	defer runtime.UnlockOSThread()
	tasks := c.tasks()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			for _, t := range tasks {
				t.wanted = true
			}
		case <-nextDue(tasks):
		}
		for _, t := range tasks {
			if !t.mayStart(time.Now()) {
				continue
			}
			start, cpu := time.Now(), threadTime()
			err := t.do(ctx)
			if ctx.Err() != nil {
				return nil
			}
			t.ended(start, time.Now(), threadTime()-cpu, err)
			if err != nil {
				c.log.Error("could not delete stale flows", "error", err, "retry", t.backoff)
			}
			t.schedule()
		}
	}
}

// tasks returns what the cleaner does. Without a delay for endpoints that are gone it does nothing about them.
func (c *conntrackCleaner) tasks() []*cleanerTask {
	tasks := []*cleanerTask{
		{cleanerPace: newCleanerPace(staleShare, staleBurst), do: c.deleteStale},
		{cleanerPace: newCleanerPace(untranslatedShare, untranslatedBurst), do: c.deleteUntranslated},
	}
	if c.gone != nil {
		tasks = append(tasks, &cleanerTask{cleanerPace: newCleanerPace(goneShare, goneBurst), do: c.resetGone, next: c.nextGone})
	}
	return tasks
}

// cleanerTask is one of the cleaner's tasks.
type cleanerTask struct {
	cleanerPace
	do func(context.Context) error
	// next returns when there is something to do next, false if that is unknown. It is nil for a task that only a call of poke begins.
	next func() (time.Time, bool)
}

// schedule has the task start when there is something to do next.
func (t *cleanerTask) schedule() {
	if t.next == nil || t.wanted {
		return
	}
	if due, ok := t.next(); ok {
		t.wanted = true
		if due.After(t.due) {
			t.due = due
		}
	}
}

// nextDue returns a channel that receives when the next of the wanted tasks may start, nil if none is wanted.
func nextDue(tasks []*cleanerTask) <-chan time.Time {
	var next <-chan time.Time
	least := time.Duration(1<<63 - 1)
	now := time.Now()
	for _, t := range tasks {
		if wait := t.wait(now); t.wanted && wait < least {
			least, next = wait, time.After(wait)
		}
	}
	return next
}

// deleteUntranslated lists the TCP entries to some frontends, or all TCP entries: the kernel has no filter for untranslated ones.
func (c *conntrackCleaner) deleteUntranslated(ctx context.Context) error {
	c.mu.Lock()
	flows := c.untranslated
	c.untranslated = render.UntranslatedFlows{}
	c.mu.Unlock()
	var failed []error
	for _, filter := range flows.Filters() {
		deleted, err := c.deleteFlows(ctx, filter, func(f conntrack.Flow) (bool, render.Reason) {
			return flows.Has(f), render.FlowUntranslated
		})
		c.log.Debug("looked for connections that began without rules", "flows", filter)
		if deleted > 0 {
			c.log.Info("deleted connections that began without rules", "family", filter.Family, "connections", deleted)
		}
		failed = append(failed, err)
	}
	err := errors.Join(failed...)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.untranslated = c.untranslated.And(flows)
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

// report hands the results to observe and logs them: all of them for debugging, and deletions unless there were many lately.
func (c *conntrackCleaner) report(results map[nft.Family]cleanupResult) {
	for family, r := range results {
		log, level := c.log, slog.LevelDebug
		if r.deleted > 0 {
			if lines, ok := c.lines.About(family.String(), "deleted"); ok {
				log, level = lines, slog.LevelInfo
			}
		}
		log.Log(context.Background(), level, "deleted stale flows", "family", family, "deleted", r.deleted,
			"took", r.took.Round(time.Microsecond))
		c.observe(family, r.deleted, r.took)
	}
}
