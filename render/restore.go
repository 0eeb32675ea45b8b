package render

import (
	"slices"
	"strings"

	"nfproxy/nft"
)

// RestorableSets returns the sets whose elements Restore can restore one by one: all that hold elements of Services, except
// interval sets.
func RestorableSets() []*nft.Set {
	var all []*nft.Set
	for _, s := range []*Schema{schemaIPv4, schemaIPv6} {
		all = append(all, s.ofServices(Node{UnservedPorts: RefuseUnserved, AnswerPing: true})...)
	}
	return slices.DeleteFunc(all, func(s *nft.Set) bool { return s.Interval })
}

// Restore returns the changes that bring single elements, which another program changed, back to the applied stage. changed
// names elements of one of the RestorableSets by their keys, and found are those of them that the kernel has. The state of
// the kernel must be known otherwise. The stages stay as they are.
func (r *Ruleset) Restore(changed nft.Elements, found []nft.Element) []nft.Change {
	var edit nft.Edit
	s := r.applied.node.declared(changed.Set)
	edit.Elements(s, sorted(found), sorted(r.appliedElements(changed)))
	return edit.Changes()
}

// sorted returns elements by key, each once.
func sorted(elements []nft.Element) []nft.Element {
	byKey := func(a, b nft.Element) int { return strings.Compare(string(a.Key), string(b.Key)) }
	same := func(a, b nft.Element) bool { return a.Key == b.Key }
	return slices.CompactFunc(slices.SortedFunc(slices.Values(elements), byKey), same)
}

// appliedElements returns those of the elements that the applied stage has.
func (r *Ruleset) appliedElements(of nft.Elements) []nft.Element {
	var all []nft.Element
	if of.Set.Data == nil { // several Services can have such an element
		for _, e := range of.List {
			if r.applied.shared[sharedKey{of.Set, e.Key}] > 0 {
				all = append(all, nft.Element{Key: e.Key})
			}
		}
		return all
	}
	keys := make(map[nft.Value]bool, len(of.List))
	for _, e := range of.List {
		keys[e.Key] = true
	}
	for s := range r.candidates(of) {
		for m := range s.applied.members {
			if m.Set == of.Set && keys[m.Key] {
				all = append(all, m.Element)
			}
		}
	}
	return all
}

// candidates returns the Services that can have one of the elements in the applied stage: those that claim its frontend, and those
// that have changed since.
func (r *Ruleset) candidates(of nft.Elements) map[*serviceState]bool {
	all := make(map[*serviceState]bool)
	add := func(name ServiceName) {
		if s := r.services[name]; s != nil {
			all[s] = true
		}
	}
	for _, e := range of.List {
		frontend := frontendOf(nft.Member{Set: of.Set, Element: e})
		add(r.claims.owner(frontend))
		for _, rival := range r.claims.rivals[frontend] {
			add(rival.name)
		}
	}
	for name := range r.changed {
		add(name)
	}
	return all
}
