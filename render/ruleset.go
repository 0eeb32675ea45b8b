package render

import (
	"maps"
	"slices"
	"strings"

	"nfproxy/nft"
)

// Ruleset is what the tables should be: the skeleton and the fragments of all Services. It keeps the fragments, not the
// Services, and knows what of them is installed, so that a changed Service costs what changed and nothing else.
//
// A Ruleset starts with Reconcile, which compares everything with the tables as they are. After that Update notes what
// changed and Changes gives it out. When applying changes went wrong, what is installed is unknown: Reconcile again.
type Ruleset struct {
	node     Node
	skeleton []*nft.Table
	services map[ServiceName]*installation
	claims   claims
	shared   map[sharedKey]int
	balanced map[balancer]bool
	live     bool // Reconcile has been called
	edit     nft.Edit
	pending  []nft.Change // of chains and of the skeleton: they come before the elements that need them
	last     []nft.Change // what goes comes after the elements that need it no more
}

// installation is one Service's part of the tables.
type installation struct {
	claim     claim
	fragment  nft.Fragment // all that the Service is to have
	installed nft.Fragment // what it has: without frontends that belong to others, and in the slots they took
	own       *Own         // what it is to have beside that
	ownNow    *Own         // and what it has
}

// sharedKey names an element that several Services can have: one of a set, not of a map.
type sharedKey struct {
	set *nft.Set
	key nft.Value
}

// NewRuleset returns a Ruleset without Services.
func NewRuleset(n Node) *Ruleset {
	return &Ruleset{
		node:     n,
		skeleton: Skeleton(n),
		services: make(map[ServiceName]*installation),
		claims:   newClaims(),
		shared:   make(map[sharedKey]int),
		balanced: make(map[balancer]bool),
	}
}

// Update takes over what changed and returns the conflicts that it brought: frontends that two Services claim.
func (r *Ruleset) Update(u Update) []Conflict {
	if !u.Node.Equal(r.node) {
		skeleton := Skeleton(u.Node)
		if r.live {
			r.pending = append(r.pending, nft.Diff(r.skeleton, skeleton)...)
		}
		r.node, r.skeleton = u.Node, skeleton
	}
	touched := make(map[ServiceName]bool)
	for _, name := range u.Removed {
		r.set(claim{name: name}, Part{}, touched)
	}
	var conflicts []Conflict
	for _, s := range u.Services {
		c := claim{s.ServiceName, s.Created}
		conflicts = append(conflicts, r.set(c, PartOf(r.node, s), touched)...)
	}
	for _, name := range slices.SortedFunc(maps.Keys(touched), ServiceName.Compare) {
		r.install(name)
	}
	return conflicts
}

// set gives a Service another part, an empty one to remove it, and notes whose installation is touched by that.
func (r *Ruleset) set(c claim, p Part, touched map[ServiceName]bool) []Conflict {
	inst := r.services[c.name]
	if inst == nil {
		inst = &installation{}
		r.services[c.name] = inst
	}
	gained, lost := frontends(p.Fragment), frontends(inst.fragment)
	if inst.claim.created.Equal(c.created) {
		gained, lost = without(gained, lost), without(lost, gained)
	}
	for _, key := range lost {
		if heir, ok := r.claims.release(key, inst.claim); ok {
			touched[heir.name] = true
		}
	}
	var conflicts []Conflict
	for _, key := range gained {
		if other, contested := r.claims.assert(key, c); contested {
			conflict := newConflict(key, c, other)
			touched[conflict.Loser] = true
			conflicts = append(conflicts, conflict)
		}
	}
	inst.claim, inst.fragment, inst.own = c, p.Fragment, p.Own
	touched[c.name] = true
	return conflicts
}

// install notes the changes that turn what a Service has into what it is to have.
func (r *Ruleset) install(name ServiceName) {
	inst := r.services[name]
	want := r.owned(inst)
	if r.live {
		want = keepSlots(inst.installed, want)
		inst.installed.Diff(want, r.record)
		r.installOwn(inst.ownNow, inst.own)
	}
	inst.installed, inst.ownNow = want, inst.own
	if inst.fragment == nil {
		delete(r.services, name)
	}
}

// installOwn notes the changes of what a Service has for itself.
func (r *Ruleset) installOwn(have, want *Own) {
	if have == nil && want == nil {
		return
	}
	r.balanceOwn(want)
	for _, id := range Tables() {
		wanted := want.table(id)
		for _, change := range nft.Diff([]*nft.Table{have.table(id)}, []*nft.Table{wanted}) {
			_, rules := change.Object.(nft.Rules)
			if change.Op == nft.Delete && !(rules && wanted.Chain(change.Object.(nft.Rules).Chain.Name) != nil) {
				r.last = append(r.last, change)
			} else {
				r.pending = append(r.pending, change)
			}
		}
	}
	r.last = append(r.last, want.forget(have)...)
}

// owned is the Service's fragment without the frontends that other Services own.
func (r *Ruleset) owned(inst *installation) nft.Fragment {
	loses := func(m nft.Member) bool {
		key := frontendOf(m)
		return key != "" && r.claims.owner(key) != inst.claim.name
	}
	if !slices.ContainsFunc(inst.fragment, loses) {
		return inst.fragment
	}
	return slices.DeleteFunc(slices.Clone(inst.fragment), loses)
}

// record notes one change of one element. An element that several Services have comes with the first and goes with the
// last of them.
func (r *Ruleset) record(op nft.Op, m nft.Member) {
	if m.Set.Data == nil {
		key := sharedKey{m.Set, m.Key}
		before := r.shared[key]
		r.share(key, op)
		if before > 0 && r.shared[key] > 0 {
			return
		}
	}
	if m.Set.IsVerdictMap() && op != nft.Delete {
		r.balance(m)
	}
	r.edit.Record(op, m.Set, m.Element)
}

func (r *Ruleset) share(key sharedKey, op nft.Op) {
	switch op {
	case nft.Add:
		r.shared[key]++
	case nft.Delete:
		if r.shared[key]--; r.shared[key] == 0 {
			delete(r.shared, key)
		}
	}
}

// balance makes sure that the chain exists which a frontend's verdict goes to. Chains that nothing goes to any more
// stay until the next Reconcile: deleting them would make every change of an endpoint count one of chains.
func (r *Ruleset) balance(m nft.Member) {
	r.balanceTo(m.Set.Table.Family, m.Data.Verdict())
}

// balanceOwn does the same for the rules of a Service's own chains.
func (r *Ruleset) balanceOwn(o *Own) {
	if o == nil {
		return
	}
	for _, c := range o.chains {
		for _, rule := range c.Rules {
			if v, ok := rule.Do.(nft.Verdict); ok {
				r.balanceTo(c.Table.Family, v)
			}
		}
	}
}

func (r *Ruleset) balanceTo(f nft.Family, v nft.Verdict) {
	b, ok := balancerOf(f, v)
	if !ok || r.balanced[b] {
		return
	}
	r.balanced[b] = true
	c := schemaOf(b.family).loadBalancer(b)
	r.pending = append(r.pending, nft.Change{Op: nft.Add, Object: c}, nft.Change{Op: nft.Add, Object: nft.Rules{Chain: c}})
}

// balancers lists a family's load balancing chains, in order.
func (r *Ruleset) balancers(f nft.Family) []balancer {
	var all []balancer
	for b := range r.balanced {
		if b.family == f {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b balancer) int {
		if a.local != b.local {
			return strings.Compare(a.chain(), b.chain())
		}
		return a.endpoints - b.endpoints
	})
	return all
}

// Changes returns what has to be applied since the last call, nothing if nothing changed.
func (r *Ruleset) Changes() []nft.Change {
	changes := slices.Concat(r.pending, r.edit.Changes(), r.last)
	r.pending, r.last = nil, nil
	return changes
}

// Reconcile returns what turns the tables have into those wanted. Endpoints keep the slots they have there.
func (r *Ruleset) Reconcile(have []*nft.Table) []nft.Change {
	r.live = true
	r.edit, r.pending, r.last = nft.Edit{}, nil, nil
	var forgotten []nft.Change
	clear(r.shared)
	clear(r.balanced)
	for _, inst := range r.services {
		want := r.owned(inst)
		inst.installed, inst.ownNow = keepSlots(slotsIn(have, want), want), inst.own
		forgotten = append(forgotten, inst.own.strangers(have)...)
		r.balanceOwn(inst.own)
		for _, m := range inst.installed {
			if m.Set.Data == nil {
				r.share(sharedKey{m.Set, m.Key}, nft.Add)
			}
			if m.Set.IsVerdictMap() {
				r.balance(m)
			}
		}
	}
	r.pending = nil
	return append(nft.Diff(have, r.Tables()), forgotten...)
}

// slotsIn returns the slots that the tables have for the frontends of a fragment.
func slotsIn(tables []*nft.Table, f nft.Fragment) nft.Fragment {
	var found nft.Fragment
	for _, m := range f {
		if !hasSlots(m.Set) || slotOf(m) != 0 {
			continue // once per frontend
		}
		for _, t := range tables {
			have := t.Set(m.Set.Name)
			if t.TableID != m.Set.Table || have == nil {
				continue
			}
			for _, e := range slotsOf(have.Elements, frontendOf(m)) {
				found = append(found, nft.Member{Set: m.Set, Element: e})
			}
		}
	}
	return found
}

// Tables returns the tables as they should be, whole.
func (r *Ruleset) Tables() []*nft.Table {
	tables := Skeleton(r.node)
	sets := make(map[*nft.Set]*nft.Set) // from declarations to the tables' own
	for _, t := range tables {
		sc := schemaOf(t.Family)
		for _, s := range sc.ofServices() {
			sets[s] = t.Set(s.Name)
		}
		for _, b := range r.balancers(t.Family) {
			t.Chains = append(t.Chains, sc.loadBalancer(b))
		}
	}
	for _, t := range tables {
		for _, inst := range r.services {
			if inst.ownNow != nil {
				own := inst.ownNow.table(t.TableID)
				t.Sets, t.Chains = append(t.Sets, own.Sets...), append(t.Chains, own.Chains...)
			}
		}
		slices.SortStableFunc(t.Sets, func(a, b *nft.Set) int { return strings.Compare(perService(a.Name), perService(b.Name)) })
		slices.SortStableFunc(t.Chains, func(a, b *nft.Chain) int { return strings.Compare(perService(a.Name), perService(b.Name)) })
	}
	sizes := make(map[*nft.Set]int, len(sets))
	for _, inst := range r.services {
		for _, m := range inst.installed {
			sizes[m.Set]++
		}
	}
	for declaration, s := range sets {
		s.Elements = slices.Grow(s.Elements, sizes[declaration])
	}
	for _, inst := range r.services {
		for _, m := range inst.installed {
			sets[m.Set].Elements = append(sets[m.Set].Elements, m.Element)
		}
	}
	for _, s := range sets {
		s.Sort()
		s.Elements = slices.CompactFunc(s.Elements, func(a, b nft.Element) bool { return a.Key == b.Key })
	}
	return tables
}

// perService is the name of a set or chain that a Service has for itself, "" of any other.
func perService(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return ""
}
