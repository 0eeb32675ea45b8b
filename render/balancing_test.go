package render

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
)

// countedService returns a Service with a number of endpoints.
func countedService(name, frontend string, endpoints int) Service {
	var addrs []string
	for i := range endpoints {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 80).String())
	}
	return testService(name, 1, frontend, addrs...)
}

// TestUnusedChainsGo: balancing chains that no Service uses any more are deleted without a full plan, and those that are used stay.
// A plan that the kernel does not accept changes nothing.
func TestUnusedChainsGo(t *testing.T) {
	const bystanders, most = 10, 300
	r := NewRuleset(Node{Name: "n"})
	update := func(s Service) { r.Update(Update{Node: r.node, Services: []Service{s}}) }
	for i := range bystanders {
		update(countedService(fmt.Sprint("bystander", i), fmt.Sprintf("10.96.1.%d:80", i), 5+10*i))
	}
	reconcile(r, nil)
	deleted := 0
	for endpoints := 1; endpoints <= most; endpoints++ {
		update(countedService("s", "10.96.0.1:80", endpoints))
		if endpoints%7 == 0 {
			r.Plan() // and no Accept
		}
		for _, c := range converge(r) {
			if chain, ok := c.Object.(*nft.Chain); ok && c.Op == nft.Delete && strings.HasPrefix(chain.Name, "lb-") {
				deleted++
			}
		}
		chains := 0
		table := r.Tables()[0]
		for _, c := range table.Chains {
			if strings.HasPrefix(c.Name, "lb-") {
				chains++
			}
		}
		if bound := 2*(bystanders+1) + spareChains + 1; chains > bound {
			t.Fatalf("%d balancing chains at %d endpoints, more than %d", chains, endpoints, bound)
		}
		for _, e := range table.Set("services").Elements {
			if b, ok := BalancingChainOf(nft.IPv4, e.Data.Verdict()); !ok || table.Chain(b.Name()) == nil {
				t.Fatalf("no chain for %s at %d endpoints", e.Data.Verdict(), endpoints)
			}
		}
	}
	if deleted < most-2*(bystanders+1)-spareChains-1 {
		t.Errorf("%d chains deleted", deleted)
	}
	// The tables are those of a Ruleset that has always had these Services, but for the chains that may remain.
	for _, c := range WithoutUnusedChains(reconcile(r, r.Tables())) {
		t.Errorf("a full plan changes %s", c.Summary())
	}
}
