package render

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestAllowlist: disallowed addresses are not frontends, and all other addresses are.
func TestAllowlist(t *testing.T) {
	only := func(ranges ...string) Allowlist {
		a := Allowlist{Only: true}
		for _, r := range ranges {
			a.Within = append(a.Within, netip.MustParsePrefix(r))
		}
		return a
	}
	for _, tc := range []struct {
		name                string
		external, balancers Allowlist
		served, disallowed  string
	}{
		{"all", Allowlist{}, Allowlist{}, "203.0.113.1 203.0.113.2 2001:db8:1::2", ""},
		{"none", only(), only(), "", "spec.externalIPs [203.0.113.1] status.loadBalancer.ingress [203.0.113.2 2001:db8:1::2]"},
		{"one range", only("203.0.113.0/31"), only("203.0.113.2/32"), "203.0.113.1 203.0.113.2", "status.loadBalancer.ingress [2001:db8:1::2]"},
		{"several ranges", only("192.0.2.0/24", "203.0.113.1/32"), only("::/0"), "203.0.113.1 2001:db8:1::2", "status.loadBalancer.ingress [203.0.113.2]"},
		{"no external IPs", only(), Allowlist{}, "203.0.113.2 2001:db8:1::2", "spec.externalIPs [203.0.113.1]"},
	} {
		node := flowNode()
		node.ExternalIPs, node.LoadBalancerIPs = tc.external, tc.balancers
		var disallowed []string
		for _, r := range DisallowedAddressesOf(node, flowService()) {
			disallowed = append(disallowed, r.Field(), fmt.Sprint(r.Addresses))
		}
		if got := strings.Join(disallowed, " "); got != tc.disallowed {
			t.Errorf("%s: the disallowed addresses are %q, want %q", tc.name, got, tc.disallowed)
		}
		frontends := make(map[netip.Addr]bool)
		for _, m := range RulesOf(node, flowService()).members() {
			if isServices(m.Set) {
				frontends[m.Key.Fields(m.Set.Key)[0].Addr()] = true
			}
		}
		var want []netip.Addr
		for _, text := range strings.Fields(tc.served + " 10.96.0.10 fd00:96::10 192.0.2.10 2001:db8::10") {
			want = append(want, netip.MustParseAddr(text))
		}
		for _, addr := range want {
			if !frontends[addr] {
				t.Errorf("%s: %s is not a frontend", tc.name, addr)
			}
		}
		if len(frontends) != len(want) {
			t.Errorf("%s: the frontends are at %v, want %v", tc.name, frontends, want)
		}
	}
}
