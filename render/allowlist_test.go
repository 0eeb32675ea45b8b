package render

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestAllowlist: what is refused is no frontend, and nothing else is lost.
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
		served, refused     string
	}{
		{"any", Allowlist{}, Allowlist{}, "203.0.113.1 203.0.113.2 2001:db8:1::2", ""},
		{"none", only(), only(), "", "spec.externalIPs [203.0.113.1] status.loadBalancer.ingress [203.0.113.2 2001:db8:1::2]"},
		{"one range", only("203.0.113.0/31"), only("203.0.113.2/32"), "203.0.113.1 203.0.113.2", "status.loadBalancer.ingress [2001:db8:1::2]"},
		{"several", only("192.0.2.0/24", "203.0.113.1/32"), only("::/0"), "203.0.113.1 2001:db8:1::2", "status.loadBalancer.ingress [203.0.113.2]"},
		{"external IPs alone", only(), Allowlist{}, "203.0.113.2 2001:db8:1::2", "spec.externalIPs [203.0.113.1]"},
	} {
		node := flowNode()
		node.ExternalIPs, node.LoadBalancerIPs = tc.external, tc.balancers
		var refused []string
		for _, r := range DisallowedAddressesOf(node, flowService()) {
			refused = append(refused, r.Field(), fmt.Sprint(r.Addresses))
		}
		if got := strings.Join(refused, " "); got != tc.refused {
			t.Errorf("%s: refused is %q", tc.name, got)
		}
		frontends := make(map[netip.Addr]bool)
		for _, m := range RulesOf(node, flowService()).Fragment {
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
				t.Errorf("%s: %s is not served", tc.name, addr)
			}
		}
		if len(frontends) != len(want) {
			t.Errorf("%s: served is %v", tc.name, frontends)
		}
	}
}
