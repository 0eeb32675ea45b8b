package agent

import (
	"errors"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/agent/metrics"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// attempt programs what is desired, and reports how it went.
func (d *daemon) attempt() {
	d.throttle.started(time.Now())
	c, err := d.program()
	d.throttle.ended(time.Now(), err, c.full || err != nil)
	if err != nil {
		d.log.Error("could not program the kernel; the rules are as they were", "error", err, "retry", d.throttle.backoff)
		for _, o := range d.observers {
			if o.failed != nil {
				o.failed()
			}
		}
		if d.comparison.running {
			d.endComparison(metrics.ComparisonFailed, 0)
		}
		return
	}
	d.committed(c)
}

// program brings the kernel to the desired state: by the planned changes, or, if the state of the kernel is unknown, by
// reading the tables first.
func (d *daemon) program() (commit, error) {
	if !d.ruleset.Known() {
		return d.reconcile()
	}
	start := time.Now()
	changes := d.ruleset.Plan()
	if err := d.kernel.Apply(changes, 0); err != nil {
		return d.refused(start, err)
	}
	d.ruleset.Accept()
	return commit{changes: changes, took: time.Since(start)}, nil
}

// settleTime is how long settle delays an Update at most, besides the listing of one map.
const settleTime = 100 * time.Millisecond

// settle continues to delete the clients that removed endpoints had by session affinity.
func (d *daemon) settle() {
	if err := d.kernel.Settle(settleTime); err != nil {
		d.ruleset.Forget()
		d.pending.dirty = true
		d.logRefused(err)
	}
}

// reconcileAttempts is how often reconcile reads again if another program commits between its reading and its writing. After
// that it writes regardless: other programs have no business in our tables, so their commits are most likely about their own.
const reconcileAttempts = 3

// reconcile reads the tables and sends the difference.
func (d *daemon) reconcile() (commit, error) {
	for attempt := 1; ; attempt++ {
		start := time.Now()
		have, generation, err := d.kernel.Read(render.TableIDs()...)
		if err != nil {
			return commit{}, err
		}
		if attempt > reconcileAttempts {
			generation = 0
		}
		d.ruleset.Observe(have)
		changes, err := d.converge(generation)
		switch {
		case err == nil:
			return commit{changes: changes, took: time.Since(start), full: true}, nil
		case !errors.Is(err, kernel.ErrStale):
			d.ruleset.Forget()
			return commit{}, err
		}
	}
}

// converge sends the difference to the observed tables. Services whose rules the kernel refuses are quarantined, and the rest
// is sent.
func (d *daemon) converge(generation uint32) ([]nft.Change, error) {
	for {
		changes := d.ruleset.Plan()
		err := d.kernel.Apply(changes, generation)
		if err == nil {
			d.ruleset.Accept()
			return changes, nil
		}
		var refusal *kernel.ChangeError
		if !errors.As(err, &refusal) || !d.quarantine(refusal) {
			return nil, err
		}
	}
}

// quarantine quarantines the Services whose rules the kernel refused, and reports whether another attempt can succeed. If the
// kernel named a message and not the element in it, all Services of that message are quarantined; the innocent ones leave
// quarantine with their first retry, one at a time.
func (d *daemon) quarantine(refusal *kernel.ChangeError) bool {
	switch {
	case errors.Is(refusal.Err, unix.ENOMEM), errors.Is(refusal.Err, unix.ENOBUFS), errors.Is(refusal.Err, unix.EPERM):
		return false // no Service is at fault
	}
	some := false
	for _, name := range d.ruleset.Owners(refusal.Change) {
		if !d.ruleset.Quarantine(name) {
			continue
		}
		some = true
		retry := d.retries.add(name, time.Now())
		for _, o := range d.observers {
			if o.quarantined != nil {
				o.quarantined(name, refusal, retry)
			}
		}
	}
	return some
}

// committed notes that the kernel has everything that was desired, and reports the commit.
func (d *daemon) committed(c commit) {
	c.seen, c.triggered = d.pending.seen, d.pending.triggered
	d.pending = pending{started: true}
	d.retries.keep(d.ruleset.Quarantined)
	c.quarantined, c.contested = len(d.retries), d.ruleset.Contested()
	if c.full {
		c.repaired = d.synced && (d.disturbance != nil || d.comparison.running) && len(c.changes) > 0
		d.logReconciled(c)
		d.disturbance, d.synced = nil, true
		d.compared(c)
	}
	for _, o := range d.observers {
		if o.committed != nil {
			o.committed(c)
		}
	}
	if len(c.changes) > 0 {
		d.log.Debug("committed", "operations", c.operations(), "took", c.took)
	}
}

// logReconciled logs what a comparison with the kernel's tables led to.
func (d *daemon) logReconciled(c commit) {
	took := c.took.Round(time.Microsecond)
	switch {
	case !d.synced:
		d.log.Info("in sync", "operations", c.operations(), "took", took)
		go debug.FreeOSMemory() // the start needs more memory than what follows
	case d.comparison.running && c.repaired:
		d.log.Warn("a periodic comparison found and repaired a change of which no notification told", "operations", c.operations(),
			"first", c.changes[0].Summary(), "took", took)
	case d.comparison.running:
		d.log.Debug("a periodic comparison found no difference", "took", took)
	case c.repaired:
		if log, ok := d.lines.About("tables", "repaired"); ok {
			log.Warn("repaired what others had changed", "changed", d.disturbance, "operations", c.operations(),
				"first", c.changes[0].Summary(), "took", took)
		}
	case d.disturbance != nil:
		d.log.Debug("others changed the tables, and nothing was wrong", "changed", d.disturbance)
	default:
		d.log.Info("in sync again", "operations", c.operations(), "took", took)
	}
}
