package agent

import (
	"context"
	"errors"
	"time"

	"nfproxy/conntrack"
	"nfproxy/nft"
	"nfproxy/render"
)

// resetGoneEndpoints makes the cleaner delete the entries of TCP connections to endpoints that have been gone for the delay. Without
// it the cleaner leaves TCP alone. It must be called before run.
func (c *conntrackCleaner) resetGoneEndpoints(delay time.Duration, reset func(nft.Family, int), loose func() bool) {
	c.gone, c.reset, c.loose = render.NewGoneEndpoints(delay), reset, loose
}

// nextGone returns when resetGone has something to do next.
func (c *conntrackCleaner) nextGone() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone.Next()
}

// resetGone lists the TCP flows that are due, judges each and deletes those to endpoints that are gone. Where packets in the middle of
// a connection begin no new entry, nothing would answer them: then the entries stay.
func (c *conntrackCleaner) resetGone(ctx context.Context) error {
	c.mu.Lock()
	due, ok := c.gone.Begin(time.Now())
	forgotten := c.gone.Forgotten()
	c.mu.Unlock()
	if forgotten > 0 {
		if log, ok := c.lines.About("gone", "forgotten"); ok {
			log.Warn("too many endpoints are gone; connections to some of them are not reset", "endpoints", forgotten)
		}
	}
	if !ok {
		return nil
	}
	var failed []error
	if c.loose() {
		for _, filter := range due.Filters {
			failed = append(failed, c.resetFlows(ctx, due, filter))
		}
	} else if log, ok := c.lines.About("gone", "loose"); ok {
		log.Warn("nf_conntrack_tcp_loose is 0; connections to endpoints that are gone are not reset")
	}
	err := errors.Join(failed...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && ctx.Err() == nil {
		c.gone.CleanedUp(due)
	} else {
		c.gone.Failed()
	}
	return err
}

// resetFlows deletes the flows of a filter that are due.
func (c *conntrackCleaner) resetFlows(ctx context.Context, due render.GoneCleanup, filter conntrack.Filter) error {
	deleted, err := c.deleteFlows(ctx, filter, func(f conntrack.Flow) (bool, render.Reason) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.gone.Judge(due, f)
	})
	c.log.Debug("looked for connections to endpoints that are gone", "flows", filter)
	if deleted > 0 {
		c.reset(filter.Family, deleted)
		if log, ok := c.lines.About(filter.Family.String(), "reset"); ok {
			log.Info("deleted connections to endpoints that are gone", "family", filter.Family, "connections", deleted)
		}
	}
	return err
}

// looseTCP reports whether a TCP packet in the middle of a connection begins a new conntrack entry in the network namespace of the
// calling thread, which is the kernel's default.
func looseTCP() bool {
	n, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
	return err != nil || n != 0
}
