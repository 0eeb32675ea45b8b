package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"nfproxy/agent/metrics"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/agent/health"
)

// proxy is the whole of it: what a source says has changed becomes changes of the kernel's tables, and what others do to
// the tables is undone.
type daemon struct {
	// next blocks until something changed. The first call returns everything.
	next    func(context.Context) (render.Update, error)
	kernel  *kernel.Conn
	ruleset *render.Ruleset
	log     *slog.Logger
	// watch hears of what others change in the tables; nil for a proxy that does not care.
	watch *kernel.Monitor
	// pace says when to program; its minSync may be set.
	pace throttle
	// committed, if not nil, is told of every commit.
	committed func(Commit)
	// health, if not nil, answers load balancers; flows, if not nil, ends what goes to endpoints that are gone; events, if
	// not nil, tells people in the API.
	health *health.Checks
	flows  *conntrackCleaner
	events *events
	// metrics and status, if not nil, are told what is going on.
	metrics *metrics.Recorder
	status  *health.Node

	known  atomic.Bool // what is in the kernel is what ruleset thinks; health servers read it
	synced atomic.Bool // everything that the source said first is in the kernel
	// The rest belongs to run.
	pending   pending
	intrusion *kernel.ExternalChange // what was changed by others and is not repaired yet
	trials    retryQueue
	refusals  disallowedAddresses
}

// pending is what waits to be programmed.
type pending struct {
	started   bool // the source has told everything
	dirty     bool
	seen      time.Time
	triggered []time.Time
}

// update is an answer of next.
type update struct {
	render.Update
	err error
}

// run works until ctx ends, which is no error, or the source does.
func (p *daemon) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	updates, intrusions := make(chan update), p.listen(ctx)
	following.Go(func() { p.follow(ctx, updates) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(p.idle())
		select {
		case <-ctx.Done():
			return nil
		case u := <-updates:
			if u.err != nil {
				return u.err
			}
			p.take(u.Update)
		case i := <-intrusions:
			p.intruded(i)
		case <-timer.C:
		}
		if p.retry(time.Now()); p.pending.dirty && p.pending.started && p.pace.mayStart(time.Now()) {
			p.pace.started(time.Now())
			err := p.program()
			if p.pace.ended(err); err != nil {
				p.metrics.Failed()
				p.log.Error("could not program the kernel; the rules are as they were", "error", err, "retry", p.pace.backoff)
			}
		}
	}
}

// follow asks the source for updates as long as they are wanted. While one waits to be taken the source gathers the next.
func (p *daemon) follow(ctx context.Context, updates chan<- update) {
	for {
		u, err := p.next(ctx)
		if ctx.Err() != nil {
			return
		}
		select {
		case updates <- update{u, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// listen passes on what the watch hears, until ctx ends.
func (p *daemon) listen(ctx context.Context) <-chan kernel.ExternalChange {
	if p.watch == nil {
		return nil
	}
	intrusions := make(chan kernel.ExternalChange)
	go func() {
		for {
			i, err := p.watch.Next()
			if err != nil {
				if ctx.Err() == nil {
					p.log.Error("changes that others make to the tables are not noticed any more", "error", err)
				}
				return
			}
			select {
			case intrusions <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	return intrusions
}

// take hands an update to the ruleset and the health checks and tells what follows from it.
func (p *daemon) take(u render.Update) {
	p.pending.started, p.pending.dirty = true, true
	if p.pending.seen.IsZero() {
		p.pending.seen = u.Seen
	}
	p.pending.triggered = append(p.pending.triggered, u.Triggered...)
	p.pace.hurry()
	p.health.Take(u)
	p.flows.Take(u)
	p.metrics.Updated(u)
	p.status.Queued(time.Now())
	p.status.SetEligible(!u.NotEligible)
	p.tellConflicts(p.ruleset.Update(u))
	p.refusals.take(u, p.log, p.events)
	p.tell(u)
}

// maxConflicts is how many conflicts of two Services are told one by one when they come together.
const maxConflicts = 5

// tellConflicts tells of conflicts that are new. Two Services can have any number of them: nobody is to fill logs by that.
func (p *daemon) tellConflicts(conflicts []render.Conflict) {
	type pair struct{ winner, loser render.ServiceName }
	told := make(map[pair]int)
	for _, c := range conflicts {
		between := pair{c.Winner, c.Loser}
		if told[between]++; told[between] > maxConflicts {
			continue
		}
		p.log.Warn("conflict", "frontend", c.Address, "protocol", c.Protocol, "owner", c.Winner, "refused", c.Loser)
		p.events.warn(c.Loser, reasonConflict, c.String())
	}
	for between, n := range told {
		if n > maxConflicts {
			p.log.Warn("more conflicts", "owner", between.winner, "refused", between.loser, "frontends", n-maxConflicts)
		}
	}
}

// tell logs an update for those who want to know everything.
func (p *daemon) tell(u render.Update) {
	if !p.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for _, name := range u.Removed {
		p.log.Debug("Service removed", "service", name)
	}
	for _, s := range u.Services {
		for _, port := range s.Ports {
			for _, addr := range s.ClusterIPs {
				selected := render.Select(u.Node, port, render.Family(addr))
				p.log.Debug("Service changed", "service", s.ServiceName, "port", port.Name, "frontend",
					netip.AddrPortFrom(addr, port.Port), "endpoints", len(selected.Cluster), "why", selected.WhyCluster)
			}
		}
	}
}

// intruded notes that others have changed the tables: what is in the kernel is not known any more.
func (p *daemon) intruded(i kernel.ExternalChange) {
	if !p.pending.started { // the first round reads everything
		return
	}
	p.known.Store(false)
	p.intrusion = &i
	p.status.Queued(time.Now())
	p.pending.dirty = true
	p.pace.disturbed(time.Now())
}

// idle is how long there is nothing to do unless something happens.
func (p *daemon) idle() time.Duration {
	wait := p.trials.wait(time.Now())
	if p.pending.dirty && p.pending.started {
		wait = min(wait, p.pace.wait(time.Now()))
	}
	return wait
}

// report tells whoever wants to know that the kernel has everything, by changes that began to be made at a time. full says
// that the tables were read before.
func (p *daemon) report(changes []nft.Change, start time.Time, full bool) {
	c := Commit{nft.ElementOperations(changes), time.Since(start), p.pending.seen, p.pending.triggered}
	p.pending = pending{started: true}
	p.trials.succeeded(p.ruleset.InQuarantine)
	p.health.Programmed()
	p.flows.Programmed(changes)
	p.metrics.Committed(metrics.Round{Operations: c.Operations, Took: c.Took, Seen: c.Seen, Triggered: c.Triggered, Full: full})
	p.metrics.Quarantined(len(p.trials))
	p.metrics.Conflicts(p.ruleset.Contested())
	p.metrics.RefusedAddresses(p.refusals.count)
	p.status.Programmed(time.Now())
	if len(changes) == 0 {
		return
	}
	p.log.Debug("committed", "operations", c.Operations, "took", c.Took)
	if p.committed != nil {
		p.committed(c)
	}
}
