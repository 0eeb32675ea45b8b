package agent

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/agent/metrics"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// attempt programs what is desired, and reports how it went.
func (d *daemon) attempt() {
	d.throttle.started(time.Now())
	c, err := d.program()
	d.throttle.ended(time.Now(), err, c.full || err != nil)
	if err != nil {
		message := "could not program the kernel; the rules are as they were"
		if isShortage(err) {
			message = "memory is short; Services keep the rules that they had"
		}
		d.log.Error(message, "error", err, "retry", d.throttle.backoff)
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
	starting := !d.synced
	d.committed(c)
	if starting {
		go debug.FreeOSMemory() // the start needs more memory than what follows
	}
}

// program brings the kernel to the desired state: by the planned changes, or, if the state of the kernel is unknown, by
// reading the tables first.
func (d *daemon) program() (commit, error) {
	if !d.ruleset.Known() {
		return d.reconcile()
	}
	start := time.Now()
	restored, err := d.restore()
	var changes []nft.Change
	if err == nil {
		changes, err = d.converge()
	}
	if isShortage(err) { // the rest is known
		return commit{}, err
	}
	if err != nil {
		d.ruleset.Forget()
		if !d.throttle.mayRead(time.Now()) {
			return commit{}, err
		}
		d.logRefused(err)
		return d.reconcile()
	}
	return commit{changes: slices.Concat(restored, changes), took: time.Since(start), repaired: len(restored) > 0}, nil
}

// logRefused logs a refusal after which the tables are read.
func (d *daemon) logRefused(err error) {
	if log, ok := d.lines.About("tables", "refused"); ok {
		log.Warn("a change was refused; reading the tables again", "error", err)
	}
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

// reconcileAttempts is how often reconcile reads the tables at most.
const reconcileAttempts = 4

// reconcile reads the tables and sends the difference. If the kernel refuses it because another program has changed the tables
// meanwhile, reconcile reads again. Commits to other tables do not matter.
func (d *daemon) reconcile() (commit, error) {
	d.damaged = nil
	for attempt := 1; ; attempt++ {
		start := time.Now()
		have, err := d.readTables(attempt == 1)
		if err != nil {
			return commit{}, err
		}
		d.ruleset.Observe(have)
		if !d.synced { // what decoding and rendering left would add to what the plan needs: 6 MB of 74 with 10,000 Services
			runtime.GC()
		}
		changes, err := d.converge()
		switch {
		case err == nil:
			return commit{changes: changes, took: time.Since(start), full: true}, nil
		case isShortage(err):
			return commit{}, err
		case !errors.Is(err, kernel.ErrStale) || attempt == reconcileAttempts:
			d.ruleset.Forget()
			return commit{}, err
		}
	}
}

// converge sends the planned changes. Services whose rules the kernel refuses are quarantined, and the rest is sent. converge
// returns an error that wraps kernel.ErrStale if the tables may differ from what the plan assumes.
func (d *daemon) converge() ([]nft.Change, error) {
	for {
		changes, err := d.applyPlan()
		switch {
		case err == nil:
			return changes, nil
		case d.stale(err):
			return nil, fmt.Errorf("%w: %w", kernel.ErrStale, err)
		case errors.Is(err, kernel.ErrNoRoom):
			return d.convergeInParts(err)
		}
		var refusal *kernel.ChangeError
		if !errors.As(err, &refusal) || !d.quarantine(refusal) {
			return nil, err
		}
	}
}

// applyPlan sends the planned changes.
func (d *daemon) applyPlan() ([]nft.Change, error) {
	changes := d.ruleset.Plan()
	if err := d.kernel.Apply(changes, 0); err != nil {
		return nil, err
	}
	d.ruleset.Accept()
	return changes, nil
}

// stale reports whether changes may have been refused because the tables are not what the plan assumes: they add what exists, or
// delete what does not exist or is in use. Right after a read the only cause is another program that has committed since: otherwise
// a Service is at fault. The same holds at any time for additions of sets, chains and rules, which packets neither add nor delete: the
// kernel may lack an expression.
func (d *daemon) stale(refusal error) bool {
	if !errors.Is(refusal, unix.EEXIST) && !errors.Is(refusal, unix.ENOENT) && !errors.Is(refusal, unix.EBUSY) {
		return false
	}
	if d.ruleset.Known() && !addsObjects(refusal) {
		return true
	}
	changed, err := d.kernel.ChangedSinceRead()
	return err == nil && changed
}

// addsObjects reports whether the kernel refused to add a set, a chain or rules.
func addsObjects(refusal error) bool {
	e, ok := errors.AsType[*kernel.ChangeError](refusal)
	if !ok || e.Change.Op != nft.Add {
		return false
	}
	switch e.Change.Object.(type) {
	case *nft.Set, *nft.Chain, nft.Rules:
		return true
	}
	return false
}

// quarantine quarantines the Services whose rules the kernel refused, and reports whether another attempt can succeed. If the
// kernel named a message and not the element in it, all Services of that message are quarantined; the innocent ones leave
// quarantine with their first retry, one at a time.
func (d *daemon) quarantine(refusal *kernel.ChangeError) bool {
	if errors.Is(refusal.Err, unix.EPERM) {
		return false // no Service is at fault
	}
	some := false
	for _, name := range d.ruleset.Owners(refusal.Change) {
		if d.quarantineOne(name, refusal) {
			some = true
		}
	}
	return some
}

// committed notes that the kernel has everything that was desired, and reports the commit.
func (d *daemon) committed(c commit) {
	c.seen, c.triggered = d.pending.seen, d.pending.triggered
	d.pending = pending{started: true}
	d.retries.keep(d.ruleset.Quarantined)
	c.quarantined, c.contested, c.services = len(d.retries), d.ruleset.Contested(), d.ruleset.Size()
	if c.full {
		c.repaired = d.repaired(c)
	}
	if c.full || d.disturbance != nil {
		d.logReconciled(c)
		d.disturbance, d.synced = nil, true
	}
	if c.full {
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

// repaired reports whether the changes of a commit that compared the tables undo those of another program. If notifications were
// lost, nothing shows that the program has changed these tables, and the changes may be those of an Update.
func (d *daemon) repaired(c commit) bool {
	switch {
	case !d.synced || len(c.changes) == 0:
		return false
	case d.disturbance == nil:
		return d.comparison.running
	}
	return !d.disturbance.Missed || c.seen.IsZero()
}

// logReconciled logs what a comparison with the kernel's tables, or with the elements that other programs changed, led to.
func (d *daemon) logReconciled(c commit) {
	took := c.took.Round(time.Microsecond)
	switch {
	case !d.synced:
		d.log.Info("in sync", "operations", c.operations(), "took", took)
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
