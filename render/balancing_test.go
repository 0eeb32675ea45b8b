package render

import (
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

func TestBalancingSize(t *testing.T) {
	for endpoints, want := range map[int]int{1: 2, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 16, 16: 16, 17: 32, 1000: 1024, 32769: 1 << 16, MaxEndpoints: 1 << 16} {
		if got := balancingSize(endpoints); got != want {
			t.Errorf("balancingSize(%d) = %d, want %d", endpoints, got, want)
		}
	}
}

// TestVerdictStays: while the number of endpoints changes within the size of a balancing chain, no verdict changes, and one
// endpoint more or less changes one slot.
func TestVerdictStays(t *testing.T) {
	r := NewRuleset(Node{Name: "other"})
	update := func(endpoints int) []nft.Change {
		r.Update(Update{Node: r.node, Services: []Service{countedService("s", "10.96.0.1:80", endpoints)}})
		return converge(r)
	}
	reconcile(r, nil)
	update(1)
	check := func(from, to int) {
		changes := update(to)
		stays := balancingSize(from) == balancingSize(to)
		for _, c := range changes {
			if e, ok := c.Object.(nft.Elements); stays && (!ok || e.Set.IsVerdictMap()) {
				t.Errorf("from %d to %d endpoints: %s", from, to, c.Summary())
			}
		}
		if n := nft.ElementOperations(changes); stays && n != 1 || !stays && n != 3 {
			t.Errorf("from %d to %d endpoints: %d element operations", from, to, n)
		}
	}
	const most = 70
	for n := 1; n < most; n++ {
		check(n, n+1)
	}
	for n := most; n > 1; n-- {
		check(n, n-1)
	}
}

// TestUnusedChainsStay: the number of balancing chains is bounded, whatever numbers of endpoints Services have had. Only a full plan
// deletes those that no Service uses any more.
func TestUnusedChainsStay(t *testing.T) {
	r := NewRuleset(Node{Name: "n"})
	reconcile(r, nil)
	for endpoints := 1; endpoints <= 300; endpoints++ {
		r.Update(Update{Node: r.node, Services: []Service{countedService("s", "10.96.0.1:80", endpoints)}})
		for _, c := range converge(r) {
			if chain, ok := c.Object.(*nft.Chain); ok && c.Op == nft.Delete {
				t.Errorf("chain %s is deleted at %d endpoints", chain.Name, endpoints)
			}
		}
	}
	if got, want := balancingChainNames(r), "lb-2 lb-4 lb-8 lb-16 lb-32 lb-64 lb-128 lb-256 lb-512"; got != want {
		t.Errorf("chains %s, want %s", got, want)
	}
	for _, c := range WithoutUnusedObjects(reconcile(r, r.Tables())) {
		t.Errorf("a full plan changes %s", c.Summary())
	}
	if got, want := balancingChainNames(r), "lb-512"; got != want {
		t.Errorf("chains %s after a full plan, want %s", got, want)
	}
}

func balancingChainNames(r *Ruleset) string {
	var names []string
	for _, c := range r.Tables()[0].Chains {
		if strings.HasPrefix(c.Name, "lb-") {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, " ")
}

// TestBalancingChainOf: verdicts to balancing chains are recognized, including those of earlier versions, and no others.
func TestBalancingChainOf(t *testing.T) {
	for _, local := range []bool{false, true} {
		for _, size := range []int{1, 2, 3, 1000, MaxEndpoints} {
			want := BalancingChain{nft.IPv6, local, size, NoHashing}
			if got, ok := BalancingChainOf(nft.IPv6, want.Verdict()); !ok || got != want {
				t.Errorf("%s: %v, %t", want.Name(), got, ok)
			}
		}
	}
	for _, name := range []string{"lb-0", "lb--2", "lb-65537", "lb-", "lb-2x", "affinity/a/b/tcp/lb-2", ""} {
		if b, ok := BalancingChainOf(nft.IPv4, nft.GotoChain(name)); ok {
			t.Errorf("%q is taken for %v", name, b)
		}
	}
	if _, ok := BalancingChainOf(nft.IPv4, nft.Verdict{Kind: nft.Jump, Chain: "lb-2"}); ok {
		t.Error("a jump is taken for a balancing verdict")
	}
}
