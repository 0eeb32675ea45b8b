package render

import (
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
)

// TestIPv4Only: on a machine without IPv6 no change concerns IPv6, whatever addresses Services and the Node have, and IPv4 works as
// usual.
func TestIPv4Only(t *testing.T) {
	addr := netip.MustParseAddr
	node := Node{Name: "n", IPv4Only: true, Addresses: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("fd00:10:96::/112")}}
	s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80", "[fd00::1]:80")
	s.ClusterIPs = append(s.ClusterIPs, addr("fd00:10:96::1"))
	s.ExternalIPs, s.LoadBalancerIPs = []netip.Addr{addr("2001:db8::2")}, []netip.Addr{addr("2001:db8::3")}
	s.Ports[0].NodePort = 30080
	r := NewRuleset(node)
	r.Update(Update{Node: node, Services: []Service{s}})
	sent := changesText(reconcile(r, nil))
	s.Affinity = 1
	r.Update(Update{Node: node, Services: []Service{s}})
	sent += changesText(converge(r))
	if strings.Contains(sent, "ip6 ") || !strings.Contains(sent, "10.96.0.1 . tcp . 80") || !strings.Contains(sent, "192.0.2.1 . tcp . 30080") {
		t.Errorf("the changes are\n%s", sent)
	}
	before := &nft.Table{TableID: nft.TableID{Family: nft.IPv6, Name: "nfproxy"}}
	if got := changesText(reconcile(r, []*nft.Table{before})); !strings.HasPrefix(got, "delete table ip6 nfproxy\n") {
		t.Errorf("with an existing IPv6 table the changes are\n%s", got)
	}
}
