package kernel

import (
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestAffinityFull: a map holds at most Node.AffinityClients clients; the connections of further clients are balanced and
// counted. Another size replaces the map and the rules that use it, not the table.
func TestAffinityFull(t *testing.T) {
	const size = 4
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	cluster := s.frontends()[0]
	s.connectAll(t, cluster)
	s.facts.AffinityClients = size
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
		if want := uint64(round * (affinityClientCount - size)); remembered != size || beyond != want {
			t.Errorf("round %d: %d clients in the map, %d connections of further clients; want %d and %d", round, remembered, beyond, size, want)
		}
	}
}

// countClients returns the number of clients in the affinity maps of a table and the number of connections of further clients.
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
