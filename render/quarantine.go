package render

import (
	"maps"
	"slices"
	"strings"

	"nfproxy/nft"
)

// Owners returns the Services that a change is about, in order: those of its elements, or that of the map or chain that a
// Service has for itself. What all Services have in common is nobody's.
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

// ownersOf looks everywhere: an element need not be a frontend's, and the change may be to take it away.
func (r *Ruleset) ownersOf(e nft.Elements) []ServiceName {
	keys := make(map[nft.Value]bool, len(e.List))
	for _, el := range e.List {
		keys[el.Key] = true
	}
	has := func(m nft.Member) bool {
		return keys[m.Key] && m.Set.Name == e.Set.Name && m.Set.Table == e.Set.Table
	}
	return r.servicesThat(func(o objects) bool { return slices.ContainsFunc(o.fragment, has) })
}

func (r *Ruleset) ownersOfName(name string) []ServiceName {
	if !strings.Contains(name, "/") { // the names of all Services' sets and chains have none
		return nil
	}
	return r.servicesThat(func(o objects) bool {
		return o.dedicated != nil && (slices.ContainsFunc(o.dedicated.maps, func(m clientMap) bool { return m.set.Name == name }) ||
			slices.ContainsFunc(o.dedicated.chains, func(c *nft.Chain) bool { return c.Name == name }))
	})
}

// servicesThat returns the Services for whose applied or planned objects a condition holds, in order.
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
				found[ps.state.claim.name] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), ServiceName.Compare)
}

// Quarantine makes a Service keep its applied objects, whatever is desired, until its next Update or Release. It is meant
// for a Service whose rules the kernel refuses, so that all others can be programmed. It returns false if the Service does
// not exist or is quarantined already.
func (r *Ruleset) Quarantine(name ServiceName) bool {
	s := r.services[name]
	if s == nil || s.quarantined {
		return false
	}
	s.quarantined = true
	r.changed[name] = true
	return true
}

// Release ends a quarantine: the next Plan gives the Service its desired objects.
func (r *Ruleset) Release(name ServiceName) {
	if s := r.services[name]; s != nil && s.quarantined {
		s.quarantined = false
		r.changed[name] = true
	}
}

// Quarantined reports whether a Service is quarantined.
func (r *Ruleset) Quarantined(name ServiceName) bool {
	s := r.services[name]
	return s != nil && s.quarantined
}
