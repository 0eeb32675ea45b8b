package render_test

import (
	"net/netip"
	"slices"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestServiceFamilies: a Service is reached only in the families in which it has a cluster IP, whatever its other addresses, its
// endpoints and the node's addresses are. Without a valid cluster IP it is reached in both.
func TestServiceFamilies(t *testing.T) {
	addrs := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	node := render.Node{Name: "n", Addresses: addrs("192.0.2.10", "2001:db8::10")}
	for _, c := range []struct{ clusterIPs, want []string }{
		{[]string{"10.96.0.1"}, []string{"10.96.0.1:80", "198.51.100.1:80", "203.0.113.1:80", "192.0.2.10:30080"}},
		{[]string{"fd00:10:96::1"}, []string{"[fd00:10:96::1]:80", "[2001:db8:51::1]:80", "[2001:db8:113::1]:80", "[2001:db8::10]:30080"}},
		{[]string{"10.96.0.1", "fd00:10:96::1"}, []string{"10.96.0.1:80", "[fd00:10:96::1]:80", "198.51.100.1:80", "[2001:db8:51::1]:80",
			"203.0.113.1:80", "[2001:db8:113::1]:80", "192.0.2.10:30080", "[2001:db8::10]:30080"}},
		{nil, []string{"198.51.100.1:80", "[2001:db8:51::1]:80", "203.0.113.1:80", "[2001:db8:113::1]:80", "192.0.2.10:30080", "[2001:db8::10]:30080"}},
	} {
		port := render.Port{Protocol: nft.TCP, Port: 80, NodePort: 30080, Endpoints: []render.Endpoint{
			{AddrPort: netip.MustParseAddrPort("10.244.1.2:8080"), Ready: true, Serving: true},
			{AddrPort: netip.MustParseAddrPort("[fd00:10:244:1::2]:8080"), Ready: true, Serving: true}}}
		s := render.Service{ClusterIPs: addrs(c.clusterIPs...), ExternalIPs: addrs("198.51.100.1", "2001:db8:51::1"),
			LoadBalancerIPs: addrs("203.0.113.1", "2001:db8:113::1"), Ports: []render.Port{port}}
		var got []string
		for _, at := range port.Frontends(render.FrontendAddressesOf(node, s)) {
			got = append(got, at.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("with the cluster IPs %v: %v, want %v", c.clusterIPs, got, c.want)
		}
	}
}
