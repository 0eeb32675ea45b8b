package render

import (
	"cmp"
	"slices"

	"nfproxy/nft"
)

// Quarantine makes a Service keep its applied objects, whatever the desired ones are, until its next Update or Release. It is
// meant for a Service whose rules the kernel rejects, so that the others can be programmed. Before the first Accept its applied
// objects are those in the observed tables. It returns false if the Service does not exist or is quarantined already.
func (r *Ruleset) Quarantine(name ServiceName) bool {
	s := r.services[name]
	if s == nil || s.quarantined {
		return false
	}
	if !r.confirmed {
		s.applied = r.inherited(name)
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

// Changing returns the Services that get new objects by the last Plan: those with the fewest new elements first. After the first
// Observe these are all Services.
func (r *Ruleset) Changing() []ServiceName {
	if r.plan == nil {
		return nil
	}
	type service struct {
		name     ServiceName
		elements int
	}
	var all []service
	for _, ps := range r.plan.services {
		s := service{name: ps.state.name}
		ps.state.applied.diff(ps.next, func(op nft.Op, _ nft.Member) {
			if op != nft.Delete {
				s.elements++
			}
		})
		if s.elements > 0 || ps.next.dedicated != nil && ps.next.dedicated != ps.state.applied.dedicated {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b service) int { return cmp.Or(cmp.Compare(a.elements, b.elements), a.name.Compare(b.name)) })
	names := make([]ServiceName, len(all))
	for i, s := range all {
		names[i] = s.name
	}
	return names
}
