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
		in := inheritance{r.node.Instance.SchemaOf(t.Family), t, r.ownedIn(t)}
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
	add := func(s *nft.Set, e nft.Element) {
		o.fragment = append(o.fragment, nft.Member{Set: s, Element: nft.Element{Key: e.Key, Data: e.Data, Comment: e.Comment}})
	}
	addIfThere := func(s *nft.Set, key nft.Value) {
		if e, ok := in.set(s).Lookup(key); ok {
			add(s, e)
		}
	}
	for _, e := range in.owned[name] {
		kind, _ := in.set(in.schema.Connections).Lookup(e.Key)
		if KindOf(kind.Comment) == ClusterIP {
			addIfThere(in.schema.ClusterIPs, nft.Addr(FrontendOf(e.Key).Addr()))
		}
		for _, s := range append(in.schema.ofAllNodes(), in.schema.ofLimits()...) {
			if s == in.schema.ClusterIPs || s == in.schema.Hairpin || in.set(s) == nil {
				continue
			}
			here := SlotsOf(in.set(s).Elements, e.Key)
			if hasSlots(s) {
				o.slots = append(o.slots, inheritedSlots(s, e.Key, here)...)
				continue
			}
			for _, of := range here {
				add(s, of)
			}
		}
	}
	for _, endpoint := range o.endpoints() {
		addr := endpoint.Fields(in.schema.Endpoints.Data)[0]
		addIfThere(in.schema.Hairpin, addr+addr)
	}
	o.fragment.Sort()
	o.fragment = compact(o.fragment)
	return o
}

// inheritedSlots returns the slots of a frontend in a map that was read, in a list that is empty if there are none. Each endpoint
// keeps its order and is there once: another program can have removed or repeated some.
func inheritedSlots(s *nft.Set, frontend nft.Value, elements []nft.Element) []slots {
	have := slots{set: s, frontend: frontend}
	var endpoints []nft.Value
	seen := make(map[nft.Value]bool, len(elements))
	for _, e := range elements {
		if len(e.Data) == have.width() && !seen[e.Data] {
			endpoints, seen[e.Data] = append(endpoints, e.Data), true
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
		if shared, ok := sharedObjectsOf(f, v); ok {
			c.objects[shared] = true
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
