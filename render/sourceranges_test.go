package render_test

import (
	"net/netip"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestSourceRangesAdmitNode: source ranges admit the node, whose connections have the load balancer's address as source if that
// is bound on the node, by the node's primary addresses and not by those at which node ports are served.
func TestSourceRangesAdmitNode(t *testing.T) {
	lb := netip.MustParseAddr("203.0.113.99")
	s := render.Service{ServiceName: render.ServiceName{Namespace: "test", Name: "web"},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, LoadBalancerIPs: []netip.Addr{lb},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Ports: []render.Port{{Protocol: nft.TCP, Port: 80,
			Endpoints: []render.Endpoint{{AddrPort: netip.MustParseAddrPort("10.244.1.2:80"), Ready: true, Serving: true}}}}}
	inside, outside := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("198.51.100.10")
	for _, c := range []struct {
		name           string
		ip, nodePortAt netip.Addr
		want           nft.Outcome
	}{
		{"the primary address is inside", inside, outside, nft.Accepted},
		{"the address of node ports is inside", outside, inside, nft.Dropped},
	} {
		tables := build(t, render.Update{Services: []render.Service{s},
			Node: render.Node{Name: "n", IPs: []netip.Addr{c.ip}, Addresses: []netip.Addr{c.nodePortAt}}})
		path := nft.Simulate(tables[0], nft.Packet{Hook: nft.Output, Protocol: nft.TCP, Source: netip.AddrPortFrom(lb, 1234),
			Destination: netip.AddrPortFrom(lb, 80)})
		if path.Outcome != c.want {
			t.Errorf("%s: %v, want %v", c.name, path.Outcome, c.want)
		}
	}
}
