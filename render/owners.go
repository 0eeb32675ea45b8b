package render

import (
	"maps"
	"slices"

	"nfproxy/nft"
)

// Owners returns the Services that have the objects of a change, sorted: its elements, or its dedicated map or chain. Objects
// that all Services share have no owner.
func (r *Ruleset) Owners(c nft.Change) []ServiceName {
	switch o := c.Object.(type) {
	case nft.Elements:
		return r.ownersOf(o)
	case nft.DynamicElements:
		return r.ownersOfName(o.Set.Name)
	case *nft.Set:
		return r.ownersOfName(o.Name)
	case *nft.Chain:
		return r.ownersOfName(o.Name)
	case nft.Rules:
		return r.ownersOfName(o.Chain.Name)
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

// ownersOfName returns the Services that have the dedicated map or chain of a name.
func (r *Ruleset) ownersOfName(name string) []ServiceName {
	if DedicatedName(name) == "" {
		return nil
	}
	return r.servicesThat(func(o objects) bool {
		return o.dedicated != nil && (slices.ContainsFunc(o.dedicated.maps, func(m clientMap) bool { return m.set.Name == name }) ||
			slices.ContainsFunc(o.dedicated.chains, func(c *nft.Chain) bool { return c.Name == name }))
	})
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
