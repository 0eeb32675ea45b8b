package render

import (
	"net/netip"
	"testing"

	"nfproxy/nft"
)

// TestCounterKey: a counter continues when the number of endpoints changes or an endpoint changes its slot, and begins
// anew when the action or the endpoint changes.
func TestCounterKey(t *testing.T) {
	s := SchemaOf(nft.IPv4)
	frontend := nft.Addr(netip.MustParseAddr("10.96.0.1")) + nft.Proto(nft.TCP) + nft.Port(80)
	other := nft.Addr(netip.MustParseAddr("10.96.0.2")) + nft.Proto(nft.TCP) + nft.Port(80)
	verdict := func(key nft.Value, v nft.Verdict) nft.Element { return nft.Element{Key: key, Data: v.Value()} }
	balance := func(local bool, endpoints int) nft.Verdict {
		return BalancingChain{Family: nft.IPv4, Local: local, Size: balancingSize(endpoints)}.Verdict()
	}
	slot := func(n uint16, port uint16) nft.Element {
		return nft.Element{Key: frontend + nft.Slot(n), Data: nft.Addr(netip.MustParseAddr("10.244.1.2")) + nft.Port(port)}
	}
	for _, c := range []struct {
		name string
		set  *nft.Set
		a, b nft.Element
		same bool
	}{
		{"endpoint count", s.Services, verdict(frontend, balance(false, 3)), verdict(frontend, balance(false, 20)), true},
		{"frontend", s.Services, verdict(frontend, balance(false, 3)), verdict(other, balance(false, 3)), false},
		{"local endpoints", s.Services, verdict(frontend, balance(false, 3)), verdict(frontend, balance(true, 3)), false},
		{"refused", s.Services, verdict(frontend, balance(false, 3)), verdict(frontend, nft.GotoChain(RefuseChain)), false},
		{"dropped", s.Services, verdict(frontend, balance(false, 3)), verdict(frontend, nft.Verdict{Kind: nft.Drop}), false},
		{"chains whose names end in digits", s.Services, verdict(frontend, nft.GotoChain("affinity/ns/svc-1")),
			verdict(frontend, nft.GotoChain("affinity/ns/svc-2")), false},
		{"slot", s.Endpoints, slot(0, 8080), slot(7, 8080), true},
		{"endpoint", s.Endpoints, slot(0, 8080), slot(0, 8081), false},
		{"no data", s.ClusterIPs, nft.Element{Key: frontend[:4]}, nft.Element{Key: frontend[:4], Comment: "x"}, true},
	} {
		if a, b := CounterKey(c.set, c.a), CounterKey(c.set, c.b); (a == b) != c.same {
			t.Errorf("%s: %q and %q, want equal: %t", c.name, a, b, c.same)
		}
	}
}
