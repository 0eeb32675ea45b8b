package agent

import (
	"errors"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// program brings the kernel to where the ruleset is: by what changed, or, when what the kernel has is not known, by
// reading it and sending the difference.
func (p *daemon) program() error {
	if p.known.Load() {
		start := time.Now()
		changes := p.ruleset.Changes()
		err := p.kernel.Apply(changes, 0)
		if err == nil {
			p.ruleset.Applied()
			p.report(changes, start, false)
			return nil
		}
		p.known.Store(false)
		p.log.Warn("a change was refused; reading the tables again", "error", err)
	}
	return p.reconcile()
}

// reconcileAttempts is how often reconcile reads anew when somebody else commits between its reading and its writing.
// After that it writes regardless: others have no business in our tables, so most likely it was about theirs.
const reconcileAttempts = 3

func (p *daemon) reconcile() error {
	for attempt := 1; ; attempt++ {
		start := time.Now()
		have, generation, err := p.kernel.Read(render.TableIDs()...)
		if err != nil {
			return err
		}
		if attempt > reconcileAttempts {
			generation = 0
		}
		changes, err := p.settle(have, generation)
		if errors.Is(err, kernel.ErrStale) {
			continue
		}
		if err != nil {
			return err
		}
		p.known.Store(true)
		p.reconciled(changes, start)
		return nil
	}
}

// settle sends the difference. Services whose part the kernel refuses are put in quarantine, and the rest is sent.
func (p *daemon) settle(have []*nft.Table, generation uint32) ([]nft.Change, error) {
	for {
		changes := p.ruleset.Reconcile(have)
		err := p.kernel.Apply(changes, generation)
		if err == nil {
			p.ruleset.Applied()
			return changes, nil
		}
		var refused *kernel.ChangeError
		if !errors.As(err, &refused) || !p.quarantine(refused) {
			return nil, err
		}
	}
}

// reconciled tells what a reconciliation has done and why.
func (p *daemon) reconciled(changes []nft.Change, start time.Time) {
	took := time.Since(start).Round(time.Microsecond)
	switch {
	case !p.synced.Load():
		p.log.Info("in sync", "operations", nft.ElementOperations(changes), "took", took)
		go debug.FreeOSMemory() // a start takes more than what follows
	case p.intrusion != nil && len(changes) > 0:
		p.metrics.Repaired()
		p.log.Warn("repaired what others had changed", "changed", p.intrusion, "operations", nft.ElementOperations(changes),
			"first", changes[0].Summary(), "took", took)
	case p.intrusion != nil:
		p.log.Debug("others changed the tables, and nothing was wrong", "changed", p.intrusion)
	default:
		p.log.Info("in sync again", "operations", nft.ElementOperations(changes), "took", took)
	}
	if len(changes) > 0 {
		p.flows.WentAstray(p.ruleset.UntranslatedFlows())
	}
	p.intrusion = nil
	p.synced.Store(true)
	p.report(changes, start, true)
}

// quarantine puts the Services in quarantine whose part the kernel refused, and says whether that is worth an attempt
// without them. Where the kernel named a message and not the element in it, all Services that it is about go, and those
// which are innocent come back with their first trial, one at a time.
func (p *daemon) quarantine(refused *kernel.ChangeError) bool {
	switch {
	case errors.Is(refused.Err, unix.ENOMEM), errors.Is(refused.Err, unix.ENOBUFS), errors.Is(refused.Err, unix.EPERM):
		return false // nobody's fault
	}
	some := false
	for _, name := range p.ruleset.Owners(refused.Change) {
		if !p.ruleset.Quarantine(name) {
			continue
		}
		some = true
		again := p.trials.failed(name, time.Now())
		p.log.Error("the kernel refuses a Service; it keeps what it had, the others go on",
			"service", name, "error", refused, "retry", again)
		p.events.warn(name, reasonRefused, refused.Error())
	}
	return some
}

// retry lets one Service out of quarantine whose time has come.
func (p *daemon) retry(now time.Time) {
	if name, ok := p.trials.next(now); ok {
		p.ruleset.Release(name)
		p.pending.dirty = true
	}
}
