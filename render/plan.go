package render

import (
	"maps"
	"slices"

	"nfproxy/nft"
)

// plan is the way from the applied stage to the desired one.
type plan struct {
	// full: the plan covers all Services, and common is the whole next common part. Otherwise common holds the differences:
	// of shared, how many Services more or fewer have an element, and of chains, the new ones.
	full bool
	common
	services []plannedService
	// changed are the Services that the plan was made for.
	changed map[ServiceName]bool
	batch   batch
}

// plannedService is a Service with the objects that the plan gives it.
type plannedService struct {
	state *serviceState
	next  objects
}

// batch gathers changes in an order that one transaction accepts.
type batch struct {
	before []nft.Change // of the skeleton and of chains, before the elements that need them
	edit   nft.Edit
	after  []nft.Change // deletions, after the elements that needed their objects
}

// Plan returns the changes that turn the applied stage into the desired one, nothing if they are equal or if the state of
// the kernel is unknown. Endpoints keep the slots that they have. Plan has no effect on the other two stages.
func (r *Ruleset) Plan() []nft.Change {
	changed := r.changed
	if r.plan != nil { // it was not accepted
		maps.Copy(changed, r.plan.changed)
	}
	r.plan, r.changed = nil, make(map[ServiceName]bool)
	if r.knowledge == unknown {
		r.changed = changed
		return nil
	}
	p := &plan{full: r.knowledge == observed, changed: changed,
		common: common{node: r.node, shared: make(map[sharedKey]int), chains: make(map[BalancingChain]bool)}}
	r.plan = p
	if p.full {
		return r.planAll(p)
	}
	return r.planChanged(p)
}

// planChanged plans the Services that changed since the last Accept.
func (r *Ruleset) planChanged(p *plan) []nft.Change {
	if !r.node.Equal(r.applied.node) {
		p.batch.before = nft.Diff(Skeleton(r.applied.node), Skeleton(r.node))
	}
	for _, name := range slices.SortedFunc(maps.Keys(p.changed), ServiceName.Compare) {
		if s := r.services[name]; s != nil {
			r.planService(s, p)
		}
	}
	return slices.Concat(p.batch.before, p.batch.edit.Changes(), p.batch.after)
}

// planService plans the way from a Service's applied objects to the granted ones.
func (r *Ruleset) planService(s *serviceState, p *plan) {
	next := r.granted(s)
	next.fragment = keepSlots(s.applied.fragment, next.fragment)
	s.applied.fragment.Diff(next.fragment, func(op nft.Op, m nft.Member) { r.planElement(op, m, p) })
	r.planDedicated(s.applied.dedicated, next.dedicated, p)
	p.services = append(p.services, plannedService{s, next})
}

// planElement plans the change of one element. An element that several Services have is added with the first of them and
// deleted with the last.
func (r *Ruleset) planElement(op nft.Op, m nft.Member, p *plan) {
	if m.Set.Data == nil {
		key := sharedKey{m.Set, m.Key}
		before := r.applied.shared[key] + p.shared[key]
		p.share(key, op)
		if after := r.applied.shared[key] + p.shared[key]; before > 0 && after > 0 {
			return
		}
	}
	if m.Set.IsVerdictMap() && op != nft.Delete {
		r.ensureChain(m.Set.Table.Family, m.Data.Verdict(), p)
	}
	p.batch.edit.Record(op, r.declared(m.Set), m.Element)
}

// share counts one Service more or fewer that has a shared element.
func (p *plan) share(key sharedKey, op nft.Op) {
	switch op {
	case nft.Add:
		p.shared[key]++
	case nft.Delete:
		p.shared[key]--
	}
}

// planDedicated plans the way from one state of a Service's dedicated objects to another.
func (r *Ruleset) planDedicated(have, want *DedicatedObjects, p *plan) {
	if have == nil && want == nil {
		return
	}
	r.ensureChainsOf(want, p)
	for _, id := range TableIDs() {
		changes := nft.Diff([]*nft.Table{have.table(id)}, []*nft.Table{want.table(id)})
		last := slices.IndexFunc(changes, isChainDeletion)
		if last < 0 {
			last = len(changes)
		}
		p.batch.before = append(p.batch.before, changes[:last]...)
		p.batch.after = append(p.batch.after, changes[last:]...)
	}
	p.batch.after = append(p.batch.after, want.dynamicChanges(have)...)
}

// isChainDeletion reports whether a change is one of the deletions at the end of a Diff: elements must let go of a chain
// before it can be deleted.
func isChainDeletion(c nft.Change) bool {
	_, chain := c.Object.(*nft.Chain)
	return chain && c.Op == nft.Delete
}

// planAll plans the way from the observed tables to the desired state of all Services.
func (r *Ruleset) planAll(p *plan) []nft.Change {
	var stale []nft.Change // of dynamic elements
	p.services = make([]plannedService, 0, len(r.services))
	for _, s := range r.services {
		next := r.granted(s)
		next.fragment = keepSlots(slotsIn(r.observed, next.fragment), next.fragment)
		stale = append(stale, next.dedicated.staleElements(r.observed)...)
		p.services = append(p.services, plannedService{s, next})
		for _, m := range next.fragment {
			if m.Set.Data == nil {
				p.share(sharedKey{m.Set, m.Key}, nft.Add)
			}
			if m.Set.IsVerdictMap() {
				r.ensureChain(m.Set.Table.Family, m.Data.Verdict(), p)
			}
		}
		r.ensureChainsOf(next.dedicated, p)
	}
	p.batch.before = nil // the chains are part of the tables below
	want := p.common.tables(func(yield func(objects) bool) {
		for _, ps := range p.services {
			if !yield(ps.next) {
				return
			}
		}
	})
	return append(nft.Diff(r.observed, want), stale...)
}
