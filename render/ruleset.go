package render

import (
	"maps"
	"slices"

	"nfproxy/nft"
)

// Ruleset is what the tables should be: the skeleton and the fragments of all Services. It keeps the fragments, not the
// Services, and knows what of them is installed, so that a changed Service costs what changed and nothing else.
//
// A Ruleset starts with Reconcile, which compares everything with the tables as they are. After that Update notes what
// changed and Changes gives it out, and Applied says that the kernel has it. When applying changes went wrong, what is
// installed is unknown: Reconcile again.
type Ruleset struct {
	node     Node
	services map[ServiceName]*installation
	claims   claims
	// touched are the Services whose part may be another than what is installed.
	touched map[ServiceName]bool
	// drawn is the node of the skeleton that is installed; shared and balanced are what the installed parts have in common.
	drawn    Node
	shared   map[sharedKey]int
	balanced map[BalancingChain]bool
	live     bool // Reconcile has been called
	// declarations are the sets of the schema as the node has them.
	declarations map[*nft.Set]*nft.Set
	// confirmed is what Services had when Applied was last called, of those that have been given something else since.
	confirmed map[ServiceName]possession
}

// installation is one Service's part of the tables.
type installation struct {
	claim  claim
	wanted possession
	// installed is what it has: without frontends that belong to others, and in the slots they took.
	installed possession
	// quarantine, if not nil, is what it keeps in place of what is wanted.
	quarantine *possession
}

// possession is a Part that somebody has or is to have.
type possession struct {
	fragment nft.Fragment
	own      *DedicatedObjects
}

// sharedKey names an element that several Services can have: one of a set, not of a map.
type sharedKey struct {
	set *nft.Set
	key nft.Value
}

// NewRuleset returns a Ruleset without Services.
func NewRuleset(n Node) *Ruleset {
	return &Ruleset{
		node:      n,
		services:  make(map[ServiceName]*installation),
		claims:    newClaims(),
		touched:   make(map[ServiceName]bool),
		shared:    make(map[sharedKey]int),
		balanced:  make(map[BalancingChain]bool),
		confirmed: make(map[ServiceName]possession),

		declarations: make(map[*nft.Set]*nft.Set),
	}
}

// Update takes over what changed and returns the conflicts that it brought: frontends that two Services claim.
func (r *Ruleset) Update(u Update) []Conflict {
	if r.node.Counters != u.Node.Counters {
		clear(r.declarations)
	}
	r.node = u.Node
	for _, name := range u.Removed {
		r.set(claim{name: name}, ServiceRules{})
	}
	var conflicts []Conflict
	for _, s := range u.Services {
		conflicts = append(conflicts, r.set(claim{name: s.ServiceName, created: s.Created}, RulesOf(r.node, s))...)
	}
	return conflicts
}

// set gives a Service another part, an empty one to remove it, and notes whose installation is touched by that.
func (r *Ruleset) set(c claim, p ServiceRules) []Conflict {
	inst := r.services[c.name]
	if inst == nil {
		inst = &installation{}
		r.services[c.name] = inst
	}
	gained, lost := frontends(p.Fragment), frontends(inst.wanted.fragment)
	if inst.claim.created.Equal(c.created) {
		gained, lost = without(gained, lost), without(lost, gained)
	}
	for _, f := range lost {
		if heir, ok := r.claims.release(f.key, inst.claim); ok {
			r.touched[heir.name] = true
		}
	}
	var conflicts []Conflict
	for _, f := range gained {
		c.kind = f.kind
		if other, contested := r.claims.assert(f.key, c); contested {
			conflict := newConflict(f.key, c, other)
			r.touched[conflict.Loser] = true
			conflicts = append(conflicts, conflict)
		}
	}
	inst.claim, inst.wanted, inst.quarantine = c, possession{p.Fragment, p.Dedicated}, nil
	r.touched[c.name] = true
	return conflicts
}

// Changes returns what has to be applied for the tables to be as the Updates want them, nothing if that changed nothing.
// Before the first Reconcile it returns nothing.
func (r *Ruleset) Changes() []nft.Change {
	if !r.live {
		return nil
	}
	var d delta
	if !r.node.Equal(r.drawn) {
		d.before = nft.Diff(Skeleton(r.drawn), Skeleton(r.node))
		r.drawn = r.node
	}
	for _, name := range slices.SortedFunc(maps.Keys(r.touched), ServiceName.Compare) {
		r.install(name, &d)
	}
	clear(r.touched)
	return slices.Concat(d.before, d.edit.Changes(), d.after)
}

// Applied says that the kernel has what Changes or Reconcile returned last.
func (r *Ruleset) Applied() {
	if len(r.confirmed) > 0 { // a new map: a cleared one would keep the room for all Services
		r.confirmed = make(map[ServiceName]possession)
	}
}

// delta is a batch in the making.
type delta struct {
	before []nft.Change // of chains and of the skeleton: they come before the elements that need them
	edit   nft.Edit
	after  []nft.Change // what goes comes after the elements that need it no more
}

// install adds the changes that turn what a Service has into what it is to have.
func (r *Ruleset) install(name ServiceName, d *delta) {
	inst := r.services[name]
	want := r.due(inst)
	want.fragment = keepSlots(inst.installed.fragment, want.fragment)
	inst.installed.fragment.Diff(want.fragment, func(op nft.Op, m nft.Member) { r.record(op, m, d) })
	r.installOwn(inst.installed.own, want.own, d)
	r.give(inst, want)
	if inst.wanted.fragment == nil {
		delete(r.services, name)
	}
}

// give notes what a Service has from now on.
func (r *Ruleset) give(inst *installation, p possession) {
	if _, noted := r.confirmed[inst.claim.name]; !noted {
		r.confirmed[inst.claim.name] = inst.installed
	}
	inst.installed = p
}

// installOwn adds the changes of what a Service has for itself.
func (r *Ruleset) installOwn(have, want *DedicatedObjects, d *delta) {
	if have == nil && want == nil {
		return
	}
	r.balanceOwn(want, d)
	for _, id := range TableIDs() {
		changes := nft.Diff([]*nft.Table{have.table(id)}, []*nft.Table{want.table(id)})
		last := slices.IndexFunc(changes, isChainDeletion)
		if last < 0 {
			last = len(changes)
		}
		d.before, d.after = append(d.before, changes[:last]...), append(d.after, changes[last:]...)
	}
	d.after = append(d.after, want.forget(have)...)
}

// isChainDeletion says whether a change is one of those that end a Diff: elements have to let go of the chain first.
func isChainDeletion(c nft.Change) bool {
	_, chain := c.Object.(*nft.Chain)
	return chain && c.Op == nft.Delete
}

// due is what a Service is to have: what is wanted, without the frontends that other Services own.
func (r *Ruleset) due(inst *installation) possession {
	p := inst.wanted
	if inst.quarantine != nil {
		p = *inst.quarantine
	}
	loses := func(m nft.Member) bool {
		key := frontendOf(m)
		return key != "" && r.claims.owner(key) != inst.claim.name
	}
	if slices.ContainsFunc(p.fragment, loses) {
		p.fragment = slices.DeleteFunc(slices.Clone(p.fragment), loses)
	}
	return p
}

// record adds one change of one element. An element that several Services have comes with the first and goes with the
// last of them.
func (r *Ruleset) record(op nft.Op, m nft.Member, d *delta) {
	if m.Set.Data == nil {
		key := sharedKey{m.Set, m.Key}
		before := r.shared[key]
		r.share(key, op)
		if before > 0 && r.shared[key] > 0 {
			return
		}
	}
	if m.Set.IsVerdictMap() && op != nft.Delete {
		r.balance(m, d)
	}
	d.edit.Record(op, r.declared(m.Set), m.Element)
}

// declared returns a set as it is declared on the node, the same each time.
func (r *Ruleset) declared(s *nft.Set) *nft.Set {
	d := r.declarations[s]
	if d == nil {
		d = r.node.declared(s)
		r.declarations[s] = d
	}
	return d
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

// Reconcile returns what turns the tables have into those wanted. Endpoints keep the slots they have there.
func (r *Ruleset) Reconcile(have []*nft.Table) []nft.Change {
	r.live = true
	r.drawn = r.node
	r.touched = make(map[ServiceName]bool) // a cleared one would keep the room for all Services
	clear(r.shared)
	clear(r.balanced)
	var forgotten []nft.Change
	var all delta // the chains that it gathers are in the tables anyway
	for name, inst := range r.services {
		want := r.due(inst)
		want.fragment = keepSlots(slotsIn(have, want.fragment), want.fragment)
		forgotten = append(forgotten, want.own.strangers(have)...)
		r.give(inst, want)
		if inst.wanted.fragment == nil {
			delete(r.services, name)
			continue
		}
		r.balanceOwn(want.own, &all)
		for _, m := range want.fragment {
			if m.Set.Data == nil {
				r.share(sharedKey{m.Set, m.Key}, nft.Add)
			}
			if m.Set.IsVerdictMap() {
				r.balance(m, &all)
			}
		}
	}
	return append(nft.Diff(have, r.Tables()), forgotten...)
}
