package render

import (
	"maps"
	"slices"

	"nfproxy/nft"
)

// Owners returns the Services that have the objects of a change, sorted: its elements, its dedicated map or chain, or the set or chain
// of limits or of a hash that their annotations need. Objects that all Services share have no owner.
func (r *Ruleset) Owners(c nft.Change) []ServiceName {
	switch o := c.Object.(type) {
	case nft.Elements:
		return r.ownersOf(o)
	case nft.DynamicElements:
		return r.ownersOfName(o.Set.Table, o.Set.Name)
	case *nft.Set:
		return r.ownersOfName(o.Table, o.Name)
	case *nft.Chain:
		return r.ownersOfName(o.Table, o.Name)
	case nft.Rules:
		return r.ownersOfName(o.Chain.Table, o.Chain.Name)
	}
	return nil
}

// ownersOf returns the Services that have one of the elements. It searches all Services: an element need not belong to a
// frontend, and the change may delete it.
func (r *Ruleset) ownersOf(e nft.Elements) []ServiceName {
	keys := make(map[nft.Value]bool, len(e.List))
	for _, el := range e.List {
		keys[el.Key] = true
	}
	has := func(m nft.Member) bool {
		return keys[m.Key] && m.Set.Name == e.Set.Name && m.Set.Table == e.Set.Table
	}
	return r.servicesThat(func(o objects) bool {
		for m := range o.members {
			if has(m) {
				return true
			}
		}
		return false
	})
}

// ownersOfName returns the Services that have the dedicated set or chain of a name, or that need the shared one by an annotation.
func (r *Ruleset) ownersOfName(table nft.TableID, name string) []ServiceName {
	if DedicatedName(name) == "" {
		return r.servicesThat(func(o objects) bool { return o.needs(table.Family, name) })
	}
	return r.servicesThat(func(o objects) bool {
		return o.dedicated != nil && (slices.ContainsFunc(o.dedicated.maps, func(m clientMap) bool { return m.set.Name == name }) ||
			slices.ContainsFunc(o.dedicated.chains, func(c *nft.Chain) bool { return c.Name == name }))
	})
}

// needs reports whether verdicts lead to the set or chain of a name that exists only for Services with an annotation. The kernel may lack
// the expressions in it, which must not affect other Services.
func (o objects) needs(f nft.Family, name string) bool {
	for family, v := range o.verdicts() {
		if family != f {
			continue
		}
		for shared, ok := sharedObjectsOf(f, v); ok; shared, ok = shared.base() {
			if shared.onlyByAnnotation() && shared.has(name) {
				return true
			}
		}
	}
	return false
}

// servicesThat returns the Services whose applied or planned objects meet a condition, sorted.
func (r *Ruleset) servicesThat(holds func(objects) bool) []ServiceName {
	found := make(map[ServiceName]bool)
	for name, s := range r.services {
		if holds(s.applied) {
			found[name] = true
		}
	}
	if r.plan != nil {
		for _, ps := range r.plan.services {
			if holds(ps.next) {
				found[ps.state.name] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), ServiceName.Compare)
}
