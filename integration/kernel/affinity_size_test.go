package kernel

import (
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestAffinityFull: a map takes as many clients as it is allowed to; further ones are served like any other, and counted.
// Another size replaces the map and what refers to it, not the table.
func TestAffinityFull(t *testing.T) {
	const room = 4
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	cluster := s.frontends()[0]
	s.connectAll(t, cluster)
	s.facts.AffinityClients = room
	s.ruleset = render.NewRuleset(s.facts)
	s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{s.service}})
	for _, c := range s.reconcile() {
		switch o := c.Object.(type) {
		case *nft.Table, nft.Elements:
			t.Errorf("another size sends %s", c)
		case *nft.Set:
			if !o.Dynamic {
				t.Errorf("another size sends %s", c)
			}
		}
	}
	for round := 1; round <= 2; round++ {
		s.connectAll(t, cluster)
		remembered, beyond := countClients(s.tables()[0])
		if want := uint64(round * (affinityClientCount - room)); remembered != room || beyond != want {
			t.Errorf("round %d: %d clients remembered, %d connections of others; want %d and %d", round, remembered, beyond, room, want)
		}
	}
}

// clients counts the clients a table remembers and the connections of those it had no room for.
func countClients(table *nft.Table) (remembered int, beyond uint64) {
	for _, set := range table.Sets {
		if set.Dynamic {
			remembered += len(set.Elements)
		}
	}
	for _, c := range table.Chains {
		for _, r := range c.Rules {
			for _, m := range r.Match {
				if counted, ok := m.(nft.CounterStatement); ok {
					beyond += counted.Packets
				}
			}
		}
	}
	return remembered, beyond
}
