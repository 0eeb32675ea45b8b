package agent

import (
	"context"
	"log/slog"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// daemon keeps the kernel's tables as the cluster asks for them: it programs what its source reports, and undoes what other
// programs change. Run, followSource and followMonitor run at the same time; the state below belongs to run alone.
type daemon struct {
	// next blocks until something changed. The first call returns everything.
	next    func(context.Context) (render.Update, error)
	kernel  *kernel.Conn
	monitor *kernel.Monitor
	ruleset *render.Ruleset
	starts  *render.SlowStart
	tables  []nft.TableID
	log     *slog.Logger
	// standby returns when the daemon may program the kernel, or when its context ends. It is nil if no other daemon runs.
	standby func(context.Context)
	lines   *ratelimit.Log // of what others can cause at any rate
	// observers are told of everything that happens, in this order.
	observers  []observer
	throttle   throttle
	comparison comparison

	updates  chan render.Update
	external chan kernel.ExternalChange
	ended    chan struct{} // closed when run has returned

	pending pending
	// disturbance is the external change that is not repaired yet, nil if there is none.
	disturbance *kernel.ExternalChange
	damaged     damagedElements
	retries     retryQueue
	synced      bool // the kernel has had everything that the source reported first
	// ahead are the tables that were read while the source was still listing, nil if there are none.
	ahead *tablesAhead
}

// pending is what waits to be programmed.
type pending struct {
	started   bool // the source has reported everything once
	dirty     bool
	seen      time.Time
	triggered []time.Time
}

// maxTriggered is the largest number of pending.triggered. The list grows while programming fails, or by a first Update; later
// times are not observed in the metric of the programming time.
const maxTriggered = 10_000

// newDaemon returns a daemon without observers.
func newDaemon(next func(context.Context) (render.Update, error), k *kernel.Conn, m *kernel.Monitor, n render.Node, log *slog.Logger) *daemon {
	return &daemon{next: next, kernel: k, monitor: m, ruleset: render.NewRuleset(n), starts: render.NewSlowStart(), tables: n.Instance.TableIDs(),
		log: log, lines: ratelimit.NewLog(log, ratelimit.Burst),
		throttle: newThrottle(), comparison: comparison{interval: comparisonInterval, share: comparisonShare},
		updates: make(chan render.Update), external: make(chan kernel.ExternalChange), ended: make(chan struct{})}
}

// startTasks adds the daemon's tasks to a life cycle.
func (d *daemon) startTasks(l *lifecycle) {
	l.runs("programming", d.run)
	l.runs("source of Services", d.followSource)
	l.runs("monitor of the tables", d.followMonitor)
}

// followSource hands the source's Updates to run. While one waits, the source gathers the next.
func (d *daemon) followSource(ctx context.Context) error {
	for {
		u, err := d.next(ctx)
		if err != nil {
			return err
		}
		select {
		case d.updates <- u:
		case <-ctx.Done():
			return nil
		}
	}
}

// followMonitor hands the changes of other programs to run.
func (d *daemon) followMonitor(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		<-d.ended             // an attempt in progress can pause the monitor
		_ = d.monitor.Close() // ends a Next that waits
	})
	defer stop()
	for {
		change, err := d.monitor.Next()
		if err != nil {
			return err
		}
		select {
		case d.external <- change:
		case <-ctx.Done():
			return nil
		}
	}
}

// run programs the kernel until ctx ends. It completes an attempt in progress.
func (d *daemon) run(ctx context.Context) error {
	defer close(d.ended)
	if d.standby != nil {
		d.standby(ctx)
	}
	d.readAhead()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil { // if more is ready, select chooses at random
		timer.Reset(d.wait(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case u := <-d.updates:
			d.take(u)
		case c := <-d.external:
			d.takeExternal(c)
		case <-timer.C:
		}
		d.releaseOne(time.Now())
		d.grow(time.Now())
		if d.pending.dirty && d.pending.started && d.throttle.mayStart(time.Now(), d.task()) {
			d.attempt()
		} else if d.kernel.Unsettled() {
			d.settle()
		}
		d.compareIfDue(time.Now())
	}
	return nil
}

// wait returns how long run has nothing to do unless something happens.
func (d *daemon) wait(now time.Time) time.Duration {
	if d.kernel.Unsettled() {
		return 0
	}
	wait := d.retries.wait(now)
	if next, grows := d.starts.Next(); grows {
		wait = min(wait, max(0, next.Sub(now)))
	}
	if d.pending.dirty && d.pending.started {
		return min(wait, d.throttle.wait(now, d.task()))
	}
	return min(wait, d.comparison.wait(now))
}

// task returns what the next attempt has to do. Elements that are to be restored do not delay an Update.
func (d *daemon) task() attemptTask {
	known := d.ruleset.Known()
	return attemptTask{repairs: !known || len(d.damaged) > 0 && d.pending.seen.IsZero(), reads: !known}
}

// take makes an Update desired.
func (d *daemon) take(u render.Update) {
	d.pending.started, d.pending.dirty = true, true
	if d.pending.seen.IsZero() {
		d.pending.seen = u.Seen
	}
	room := maxTriggered - len(d.pending.triggered)
	d.pending.triggered = append(d.pending.triggered, u.Triggered[:min(room, len(u.Triggered))]...)
	d.throttle.hurry()
	conflicts := d.ruleset.Update(d.starts.Take(u, time.Now()))
	for _, o := range d.observers {
		if o.updated != nil {
			o.updated(u)
		}
		if o.conflicted != nil && len(conflicts) > 0 {
			o.conflicted(conflicts)
		}
	}
}

// takeExternal notes that another program changed the tables: elements that it names, or their state is unknown.
func (d *daemon) takeExternal(c kernel.ExternalChange) {
	d.ahead = nil
	if !d.pending.started { // the first attempt reads the tables anyway
		return
	}
	if !d.damaged.add(c) {
		d.ruleset.Forget()
	}
	d.disturbance = &c
	d.pending.dirty = true
	d.throttle.disturbed(time.Now())
	d.tellDisturbed()
}

// tellDisturbed tells the observers that the state of the tables is unknown.
func (d *daemon) tellDisturbed() {
	for _, o := range d.observers {
		if o.disturbed != nil {
			o.disturbed()
		}
	}
}

// grow makes the weights desired that endpoints with slow start have at a time.
func (d *daemon) grow(now time.Time) {
	if u, ok := d.starts.Due(now); ok {
		d.ruleset.Update(u)
		d.pending.dirty = true
	}
}

// releaseOne lets one Service out of quarantine whose time has come.
func (d *daemon) releaseOne(now time.Time) {
	if name, ok := d.retries.next(now); ok {
		d.ruleset.Release(name)
		d.pending.dirty = true
	}
}
