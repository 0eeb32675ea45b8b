package render

import (
	"maps"
	"slices"

	"nfproxy/nft"
)

// plan is the difference between the applied stage and the desired one.
type plan struct {
	// full: the plan covers all Services, and common is the complete next common part. Otherwise common holds differences: in
	// shared, by how much the number of Services with an element changes, and in objects, the new ones.
	full bool
	common
	services []plannedService
	// unused holds the shared objects that the plan deletes, nil if it has not looked for them.
	unused map[sharedObjects]bool
	// changed holds the Services that had changed when the plan was made.
	changed map[ServiceName]bool
	batch   batch
}

// plannedService is a Service with the objects that the plan gives it.
type plannedService struct {
	state *serviceState
	next  objects
}

// batch collects changes in an order that is valid within one transaction.
type batch struct {
	before []nft.Change // to the skeleton and chains, before the elements that refer to them
	edit   nft.Edit
	after  []nft.Change // deletions, after the elements that referred to the objects
}

// Plan returns the changes from the applied stage to the desired one, nil if they are equal or the state of the kernel is
// unknown. Endpoints keep their slots. Plan has no effect on the other two stages.
func (r *Ruleset) Plan() []nft.Change {
	changed := r.changed
	if r.plan != nil { // the last plan was not accepted
		maps.Copy(changed, r.plan.changed)
	}
	r.plan, r.changed = nil, make(map[ServiceName]bool)
	if r.knowledge == unknown {
		r.changed = changed
		return nil
	}
	p := &plan{full: r.knowledge == observed, changed: changed, common: common{node: r.node}}
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
	r.deleteUnusedLimits(p)
	return slices.Concat(p.batch.before, p.batch.edit.Changes(), p.batch.after)
}

// planService plans the changes from the applied objects of a Service to the granted ones.
func (r *Ruleset) planService(s *serviceState, p *plan) {
	next := r.granted(s)
	if !s.quarantined {
		next.slots = keepSlots(s.applied.slots, next.slots)
	}
	s.applied.diff(next, func(op nft.Op, m nft.Member) { r.planElement(op, m, p) })
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
		r.ensureObjects(m.Set.Table.Family, m.Data.Verdict(), p)
	}
	p.batch.edit.Record(op, r.declared(m.Set), m.Element)
}

// share counts that one Service more or fewer has a shared element.
func (p *plan) share(key sharedKey, op nft.Op) {
	if p.shared == nil {
		p.shared = make(map[sharedKey]int)
	}
	switch op {
	case nft.Add:
		p.shared[key]++
	case nft.Delete:
		p.shared[key]--
	}
}

// planDedicated plans the changes between two states of the dedicated objects of a Service.
func (r *Ruleset) planDedicated(have, want *DedicatedObjects, p *plan) {
	if have == nil && want == nil {
		return
	}
	r.ensureObjectsOf(want, p)
	for _, id := range r.node.Instance.TableIDs() {
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

// isChainDeletion reports whether a change deletes a chain. A Diff ends with these: a chain can be deleted only when no element
// refers to it.
func isChainDeletion(c nft.Change) bool {
	_, chain := c.Object.(*nft.Chain)
	return chain && c.Op == nft.Delete
}

// planAll plans the changes from the observed tables to the desired state of all Services.
func (r *Ruleset) planAll(p *plan) []nft.Change {
	var stale []nft.Change // changes of dynamic elements
	p.services = r.grantedToAll()
	for _, ps := range p.services {
		next := ps.next
		stale = append(stale, next.dedicated.staleElements(r.observed)...)
		for _, m := range next.fragment {
			if m.Set.Data == nil {
				p.share(sharedKey{m.Set, m.Key}, nft.Add)
			}
			if m.Set.IsVerdictMap() {
				r.ensureObjects(m.Set.Table.Family, m.Data.Verdict(), p)
			}
		}
		r.ensureObjectsOf(next.dedicated, p)
	}
	p.batch.before = nil // the shared objects are part of the tables below
	want := p.common.tables(func(yield func(objects) bool) {
		for _, ps := range p.services {
			if !yield(ps.next) {
				return
			}
		}
	})
	return append(nft.Diff(r.observed, want), stale...)
}

// grantedToAll returns the objects of each Service, with the endpoints in the slots that they have in the observed tables.
func (r *Ruleset) grantedToAll() []plannedService {
	all := make([]plannedService, 0, len(r.services))
	for _, s := range r.services {
		all = append(all, plannedService{state: s})
	}
	inShares(len(all), func(i int) {
		s := all[i].state
		next := r.granted(s)
		if !s.quarantined { // its endpoints are in their slots
			next.slots = slotsIn(r.observed, next.slots)
		}
		all[i].next = next
	})
	return all
}
