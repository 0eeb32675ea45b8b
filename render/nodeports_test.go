package render

import (
	"net/netip"
	"slices"
	"testing"

	"nfproxy/nft"
)

// TestNodePortFamilies: a Service has its node ports at the addresses of the families of its cluster IPs.
func TestNodePortFamilies(t *testing.T) {
	node := Node{Name: "n", Addresses: addrs("192.0.2.1", "2001:db8::1", "fe80::1")}
	for _, c := range []struct {
		clusterIPs, want []netip.Addr
	}{
		{addrs("10.96.0.1"), addrs("192.0.2.1")},
		{addrs("fd00::1"), addrs("2001:db8::1", "fe80::1")},
		{addrs("10.96.0.1", "fd00::1"), node.Addresses},
		{nil, node.Addresses}, // none is valid
	} {
		s := Service{ServiceName: ServiceName{"ns", "s"}, ClusterIPs: c.clusterIPs}
		var got []netip.Addr
		Port{Protocol: nft.TCP, Port: 80, NodePort: 30001}.Frontends(node, s, func(k Kind, at netip.AddrPort) {
			if k == NodePort {
				got = append(got, at.Addr())
			}
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("cluster IPs %v: node ports at %v, want %v", c.clusterIPs, got, c.want)
		}
	}
}
