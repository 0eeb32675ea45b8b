package render

import (
	"maps"
	"slices"

	"nfproxy/nft"
)

// Ruleset holds the state of the tables in three stages:
//
//   - desired: what the cluster asks for. Update changes it.
//   - planned: what Plan returned, until Accept or the next Plan.
//   - applied: what the kernel has. Observe sets it to tables that were read, Accept to the plan.
//
// A caller applies Updates, calls Plan, sends the changes to the kernel, and calls Accept if the kernel accepts them. Plan may be
// repeated: without an Accept it returns the difference between the same two stages again. If the caller does not know whether
// the kernel accepted the changes, it calls Forget, reads the tables and calls Observe.
//
// A Ruleset keeps the rules of each Service, not the Service. The cost of a plan depends only on what changed.
type Ruleset struct {
	node     Node
	services map[ServiceName]*serviceState
	claims   claims
	// changed holds the Services whose desired objects may differ from the applied ones.
	changed map[ServiceName]bool

	applied   common
	knowledge knowledge
	confirmed bool         // a plan was accepted, so that the applied stage is what the kernel has
	observed  []*nft.Table // the tables of the last Observe, nil after Accept
	// owned holds the frontends in observed, as far as they were needed.
	owned map[*nft.Table]map[ServiceName][]nft.Element
	plan  *plan // nil if there is none

	// declarations maps the sets of the schemas to their declarations on the desired node.
	declarations map[*nft.Set]*nft.Set
}

// knowledge is what is known about the tables in the kernel.
type knowledge uint8

const (
	unknown  knowledge = iota // the tables must be read
	observed                  // the tables were read; the next plan compares all of them
	known                     // the kernel has what Accept noted last
)

// serviceState is the state of one Service.
type serviceState struct {
	*claimingService
	desired objects
	// applied omits frontends that other Services own, and has the endpoints in their actual slots.
	applied objects
	// quarantined: the Service keeps its applied objects, whatever the desired ones are.
	quarantined bool
}

// objects holds the objects of one Service in the tables.
type objects struct {
	fragment  nft.Fragment // without the elements in slots
	slots     []slots
	dedicated *DedicatedObjects
}

// members yields the elements.
func (o objects) members(yield func(nft.Member) bool) {
	for _, m := range o.fragment {
		if !yield(m) {
			return
		}
	}
	for _, s := range o.slots {
		for m := range s.members() {
			if !yield(m) {
				return
			}
		}
	}
}

// diff calls record for each change of an element that turns o into want.
func (o objects) diff(want objects, record func(nft.Op, nft.Member)) {
	o.fragment.Diff(want.fragment, record)
	diffSlots(o.slots, want.slots, record)
}

// common is the part of the tables that does not belong to one Service.
type common struct {
	node    Node // of the skeleton
	shared  map[sharedKey]int
	objects map[sharedObjects]bool
	// objectsKept is the number of objects when unused ones were last looked for.
	objectsKept int
}

// sharedKey identifies an element of a set that is not a map. Several Services can have such an element.
type sharedKey struct {
	set *nft.Set
	key nft.Value
}

// NewRuleset returns a Ruleset without Services. The state of the kernel is unknown.
func NewRuleset(n Node) *Ruleset {
	return &Ruleset{
		node:         n,
		services:     make(map[ServiceName]*serviceState),
		claims:       newClaims(),
		changed:      make(map[ServiceName]bool),
		applied:      common{shared: make(map[sharedKey]int), objects: make(map[sharedObjects]bool)},
		declarations: make(map[*nft.Set]*nft.Set),
	}
}

// Update applies an Update to the desired stage. It returns the new conflicts: frontends that two Services claim.
func (r *Ruleset) Update(u Update) []Conflict {
	if r.node.Counters != u.Node.Counters {
		clear(r.declarations)
	}
	r.node = u.Node
	for _, name := range u.Removed {
		r.set(claimingService{name: name}, ServiceRules{})
	}
	var conflicts []Conflict
	for s, rules := range rulesOf(r.node, u.Services) {
		conflicts = append(conflicts, r.set(claimingService{s.ServiceName, s.Created}, rules)...)
	}
	return conflicts
}

// set replaces the desired rules of a Service. It marks the Service and every other Service that gains or loses a frontend as
// changed. Empty rules remove the Service.
func (r *Ruleset) set(c claimingService, rules ServiceRules) []Conflict {
	s := r.services[c.name]
	if s == nil {
		s = &serviceState{claimingService: &c}
		r.services[c.name] = s
	}
	gained, lost := claimedFrontends(rules.Fragment), claimedFrontends(s.desired.fragment)
	by := s.claimingService
	if by.created.Equal(c.created) {
		gained, lost = without(gained, lost), without(lost, gained)
	} else {
		by = &c
	}
	for _, f := range lost {
		if heir, ok := r.claims.release(f.key, s.claimingService); ok {
			r.changed[heir.name] = true
		}
	}
	var conflicts []Conflict
	for _, f := range gained {
		own := claim{by, f.kind}
		if other, contested := r.claims.assert(f.key, own); contested {
			conflict := newConflict(f.key, own, other)
			r.changed[conflict.Loser] = true
			conflicts = append(conflicts, conflict)
		}
	}
	s.claimingService, s.desired, s.quarantined = by, objects{rules.Fragment, rules.slots, rules.Dedicated}, false
	r.changed[by.name] = true
	return conflicts
}

// granted returns the objects that a Service gets: the desired ones, or the applied ones if it is quarantined, without the
// frontends that other Services own.
func (r *Ruleset) granted(s *serviceState) objects {
	if !s.quarantined && r.Contested() == 0 { // the Service owns every frontend that it claims
		return s.desired
	}
	o := s.desired
	if s.quarantined {
		o = s.applied
	}
	lost := func(frontend nft.Value) bool { return frontend != "" && r.claims.owner(frontend) != s.name }
	loses := func(m nft.Member) bool { return lost(frontendOf(m)) }
	if slices.ContainsFunc(o.fragment, loses) {
		o.fragment = slices.DeleteFunc(slices.Clone(o.fragment), loses)
		o.slots = slices.DeleteFunc(slices.Clone(o.slots), func(s slots) bool { return lost(s.frontend) })
	}
	return o
}

// Observe sets the applied stage to tables that were read from the kernel. The next Plan compares all of them.
func (r *Ruleset) Observe(tables []*nft.Table) {
	r.observed, r.owned, r.knowledge = tables, make(map[*nft.Table]map[ServiceName][]nft.Element), observed
}

// Forget notes that the state of the kernel is unknown. Plan returns nothing until the next Observe.
func (r *Ruleset) Forget() {
	r.observed, r.owned, r.knowledge = nil, nil, unknown
}

// Size returns the number of Services that have rules, in any of the stages.
func (r *Ruleset) Size() int { return len(r.services) }

// Known reports whether the applied stage is that of the last Accept, so that Plan needs no Observe.
func (r *Ruleset) Known() bool { return r.knowledge == known }

// Accept notes that the kernel accepted the plan, which becomes the applied stage.
func (r *Ruleset) Accept() {
	p := r.plan
	if p == nil {
		return
	}
	for _, ps := range p.services {
		ps.state.applied = ps.next
		if name := ps.state.name; ps.next.fragment == nil && ps.state.desired.fragment == nil && r.services[name] == ps.state && !r.changed[name] {
			delete(r.services, name)
		}
	}
	r.applied.take(p)
	r.plan, r.observed, r.owned, r.knowledge, r.confirmed = nil, nil, nil, known, true
}

// take makes the common part of an accepted plan the applied one.
func (c *common) take(p *plan) {
	if p.full {
		c.shared, c.objects = make(map[sharedKey]int, len(p.shared)), make(map[sharedObjects]bool, len(p.objects))
	}
	c.node = p.node
	maps.Copy(c.objects, p.objects)
	for o := range p.unused {
		delete(c.objects, o)
	}
	if p.full || p.unused != nil {
		c.objectsKept = len(c.objects)
	}
	for key, n := range p.shared {
		if c.shared[key] += n; c.shared[key] == 0 {
			delete(c.shared, key)
		}
	}
}

// declared returns the declaration of a set on the desired node, the same pointer each time.
func (r *Ruleset) declared(s *nft.Set) *nft.Set {
	d := r.declarations[s]
	if d == nil {
		d = r.node.declared(s)
		r.declarations[s] = d
	}
	return d
}
