package render

import (
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
	return r.servicesThat(func(p possession) bool { return slices.ContainsFunc(p.fragment, has) })
}

func (r *Ruleset) ownersOfName(name string) []ServiceName {
	if !strings.Contains(name, "/") { // the names of all Services' sets and chains have none
		return nil
	}
	return r.servicesThat(func(p possession) bool {
		return p.own != nil && (slices.ContainsFunc(p.own.maps, func(m clientMap) bool { return m.set.Name == name }) ||
			slices.ContainsFunc(p.own.chains, func(c *nft.Chain) bool { return c.Name == name }))
	})
}

// servicesThat returns the Services of which it holds for what they have or had.
func (r *Ruleset) servicesThat(holds func(possession) bool) []ServiceName {
	var names []ServiceName
	for name, inst := range r.services {
		if holds(inst.installed) || holds(r.confirmed[name]) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, ServiceName.Compare)
	return names
}

// Quarantine keeps a Service at what it had when Applied was last called, whatever is wanted, until it changes or is
// released. It is for what the kernel refuses: one Service must not keep the others from theirs. It says false if the
// Service is not there or in quarantine already.
func (r *Ruleset) Quarantine(name ServiceName) bool {
	inst := r.services[name]
	if inst == nil || inst.quarantine != nil {
		return false
	}
	had, changed := r.confirmed[name]
	if !changed {
		had = inst.installed
	}
	inst.quarantine = &had
	r.touched[name] = true
	return true
}

// Release ends a quarantine: the next Changes are to give the Service what is wanted.
func (r *Ruleset) Release(name ServiceName) {
	if inst := r.services[name]; inst != nil && inst.quarantine != nil {
		inst.quarantine = nil
		r.touched[name] = true
	}
}

// InQuarantine says whether a Service is in quarantine.
func (r *Ruleset) InQuarantine(name ServiceName) bool {
	inst := r.services[name]
	return inst != nil && inst.quarantine != nil
}
