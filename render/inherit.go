package render

import (
	"iter"
	"slices"
	"strings"

	"nfproxy/nft"
)

// inherited returns the objects that a Service has in the observed tables, which an earlier process programmed. Comments name the
// Service of a frontend, and the names of dedicated objects contain it. It omits a table of another schema version, which is
// replaced as a whole, and one that lacks a set. It returns no objects at all if another program has changed them so that the tables
// would be invalid.
func (r *Ruleset) inherited(name ServiceName) objects {
	var o objects
	dedicated := &DedicatedObjects{}
	for _, t := range r.observed {
		in := inheritance{r.node, r.node.Instance.SchemaOf(t.Family), t, r.ownedIn(t)}
		if CheckSchema(t) != nil || !in.complete() || r.node.IPv4Only && t.Family == nft.IPv6 {
			continue
		}
		f := in.objects(name)
		o.fragment, o.slots = append(o.fragment, f.fragment...), append(o.slots, f.slots...)
		dedicated.inherit(t, name, f.endpoints())
	}
	o.fragment.Sort()
	slices.SortFunc(o.slots, slots.compare)
	if len(dedicated.chains) > 0 {
		o.dedicated = dedicated
	}
	if len(o.fragment) > 0 && !r.valid(o) {
		return objects{}
	}
	return o
}

// inheritance finds the objects of Services in a table that was read.
type inheritance struct {
	node   Node
	schema *Schema
	table  *nft.Table
	owned  map[ServiceName][]nft.Element
}

// ownedIn returns the frontends in an observed table by the Services that their comments name.
func (r *Ruleset) ownedIn(t *nft.Table) map[ServiceName][]nft.Element {
	owned := r.owned[t]
	if owned == nil {
		owned = make(map[ServiceName][]nft.Element)
		if s := t.Set(servicesSet); s != nil {
			for _, e := range s.Elements {
				if owner, _, ok := ParseLabel(e.Comment); ok {
					owned[owner] = append(owned[owner], e)
				}
			}
		}
		r.owned[t] = owned
	}
	return owned
}

// set returns the set of the table that has the name of a set of the schema.
func (in inheritance) set(s *nft.Set) *nft.Set { return in.table.Set(s.Name) }

// complete reports whether the table has the sets of the schema, with the same types.
func (in inheritance) complete() bool {
	return !slices.ContainsFunc(in.schema.ofAllNodes(), func(s *nft.Set) bool {
		have := in.set(s)
		return have == nil || have.Interval != s.Interval || !slices.Equal(have.Key, s.Key) || !slices.Equal(have.Data, s.Data)
	})
}

// objects returns the elements of the frontends whose comments name a Service.
func (in inheritance) objects(name ServiceName) (o objects) {
	for _, e := range in.owned[name] {
		f := in.frontend(e.Key)
		o.fragment, o.slots = append(o.fragment, f.fragment...), append(o.slots, f.slots...)
	}
	for _, endpoint := range o.endpoints() {
		addr := endpoint.Fields(in.schema.Endpoints.Data)[0]
		o.fragment = in.appendElement(o.fragment, in.schema.Hairpin, addr+addr)
	}
	o.fragment.Sort()
	o.fragment = compact(o.fragment)
	return o
}

// frontend returns the elements of a frontend. Those for limits count only if a verdict leads to limits: otherwise the sets may not exist.
func (in inheritance) frontend(key nft.Value) (o objects) {
	addr := nft.Addr(FrontendOf(key).Addr())
	for _, s := range in.schema.ofServices(in.node) {
		switch {
		case s == in.schema.Hairpin || s == in.schema.ClusterIPs && in.kind(key) != ClusterIP:
		case slices.Equal(s.Key, in.schema.ClusterIPs.Key):
			o.fragment = in.appendElement(o.fragment, s, addr)
		case hasSlots(s):
			o.slots = append(o.slots, inheritedSlots(s, key, SlotsOf(in.set(s).Elements, key))...)
		default:
			o.fragment = in.appendFrontend(o.fragment, s, key)
		}
	}
	if slices.ContainsFunc(o.fragment, leadsToLimits) {
		for _, s := range in.schema.ofLimits() {
			o.fragment = in.appendFrontend(o.fragment, s, key)
		}
	}
	return o
}

// kind returns the kind of a frontend.
func (in inheritance) kind(key nft.Value) Kind {
	e, _ := in.set(in.schema.Connections).Lookup(key)
	return KindOf(e.Comment)
}

// appendElement appends the element of a set with a key, if the table has it.
func (in inheritance) appendElement(f nft.Fragment, s *nft.Set, key nft.Value) nft.Fragment {
	if have := in.set(s); have != nil {
		if e, ok := have.Lookup(key); ok {
			return append(f, inheritedElement(s, e))
		}
	}
	return f
}

// appendFrontend appends the elements of a set whose keys begin with a frontend.
func (in inheritance) appendFrontend(f nft.Fragment, s *nft.Set, key nft.Value) nft.Fragment {
	if have := in.set(s); have != nil {
		for _, e := range SlotsOf(have.Elements, key) {
			f = append(f, inheritedElement(s, e))
		}
	}
	return f
}

// inheritedElement returns an element that was read, without its counter.
func inheritedElement(s *nft.Set, e nft.Element) nft.Member {
	return nft.Member{Set: s, Element: nft.Element{Key: e.Key, Data: e.Data, Comment: e.Comment}}
}

// leadsToLimits reports whether an element has a verdict that applies limits.
func leadsToLimits(m nft.Member) bool {
	if !m.Set.IsVerdictMap() {
		return false
	}
	_, ok := ClientLimitOf(m.Data.Verdict())
	return ok
}

// inheritedSlots returns the slots of a frontend in a map that was read, in a list that is empty if there are none. If another program
// has removed some, those after them move up.
func inheritedSlots(s *nft.Set, frontend nft.Value, elements []nft.Element) []slots {
	have := slots{set: s, frontend: frontend}
	var endpoints []nft.Value
	for _, e := range elements {
		if len(e.Data) == have.width() {
			endpoints = append(endpoints, e.Data)
		}
	}
	if len(endpoints) == 0 {
		return nil
	}
	have.endpoints = join(endpoints)
	slices.Sort(endpoints)
	have.sorted = join(endpoints)
	return []slots{have}
}

// endpoints returns the endpoints in slots, each once.
func (o objects) endpoints() []nft.Value {
	var all []nft.Value
	for _, s := range o.slots {
		all = append(all, s.bySlot().values()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// inherit adds the dedicated objects that a Service with these endpoints has in a table that was read. Packets can record any of
// the endpoints.
func (o *DedicatedObjects) inherit(t *nft.Table, name ServiceName, endpoints []nft.Value) {
	has := func(object string) bool {
		_, id, _ := strings.Cut(object, "/")
		return strings.HasPrefix(id, name.String()+"/")
	}
	for _, s := range t.Sets {
		if !s.Dynamic || !has(s.Name) || !slices.Equal(s.Data, SchemaOf(t.Family).Endpoints.Data) {
			continue
		}
		declaration := *s
		declaration.Elements = nil
		o.maps = append(o.maps, clientMap{&declaration, recordedIn(s, dataWidth(s), endpoints...), true})
		o.timeout = max(o.timeout, recordTimeout(t, s))
	}
	for _, c := range t.Chains {
		if c.Hook == nft.NoHook && has(c.Name) {
			o.chains = append(o.chains, c)
		}
	}
}

// valid reports whether tables with only these objects of Services are valid: all references are resolved.
func (r *Ruleset) valid(o objects) bool {
	c := common{node: r.node, objects: make(map[sharedObjects]bool)}
	for f, v := range o.verdicts() {
		for o, ok := sharedObjectsOf(f, v); ok; o, ok = o.base() {
			c.objects[o] = true
		}
	}
	if o.dedicated != nil && slices.ContainsFunc(o.dedicated.chains, isOpaque) {
		return false
	}
	for _, t := range c.tables(func(yield func(objects) bool) { yield(o) }) {
		if t.Validate() != nil {
			return false
		}
	}
	return true
}

// isOpaque reports whether a chain has a rule that nfproxy cannot have written.
func isOpaque(c *nft.Chain) bool {
	return slices.ContainsFunc(c.Rules, func(r nft.Rule) bool {
		_, opaque := r.Do.(nft.Opaque)
		return opaque
	})
}

// verdicts yields the verdicts of the elements and the dedicated chains with their families.
func (o objects) verdicts() iter.Seq2[nft.Family, nft.Verdict] {
	return func(yield func(nft.Family, nft.Verdict) bool) {
		for _, m := range o.fragment {
			if m.Set.IsVerdictMap() && !yield(m.Set.Table.Family, m.Data.Verdict()) {
				return
			}
		}
		if o.dedicated == nil {
			return
		}
		for _, c := range o.dedicated.chains {
			for _, rule := range c.Rules {
				if v, ok := rule.Do.(nft.Verdict); ok && !yield(c.Table.Family, v) {
					return
				}
			}
		}
	}
}
