package render

import (
	"net/netip"
	"testing"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// TestUntranslatedFlows: which flows are untranslated flows to a frontend.
func TestUntranslatedFlows(t *testing.T) {
	node := Node{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80")
	s.Ports[0].NodePort = 30080
	six := testService("six", 1, "[fd00:10:96::1]:80", "[fd00::1]:80")
	r := NewRuleset(node)
	r.Update(Update{Node: node, Services: []Service{s, six}})
	untranslated := r.UntranslatedFlows()
	for _, c := range []struct {
		name string
		to   string
		edit func(*conntrack.Flow)
		want bool
	}{
		{"to a frontend, not translated", "10.96.0.1:80", func(*conntrack.Flow) {}, true},
		{"IPv6", "[fd00:10:96::1]:80", func(*conntrack.Flow) {}, true},
		{"translated", "10.96.0.1:80", func(f *conntrack.Flow) { f.Reply.Source = netip.MustParseAddrPort("10.0.0.1:80") }, false},
		{"answered", "10.96.0.1:80", func(f *conntrack.Flow) { f.Status = conntrack.SeenReply }, false},
		{"UDP", "10.96.0.1:80", func(f *conntrack.Flow) { f.Protocol = nft.UDP }, false},
		{"in another zone", "10.96.0.1:80", func(f *conntrack.Flow) { f.Zone = 1 }, false},
		{"to no frontend", "10.96.0.1:81", func(*conntrack.Flow) {}, false},
		{"to a node port", "192.0.2.1:30080", func(*conntrack.Flow) {}, false},
	} {
		to := netip.MustParseAddrPort(c.to)
		f := conntrack.Flow{Family: Family(to.Addr()), Protocol: nft.TCP, Original: conntrack.Tuple{Destination: to}, Reply: conntrack.Tuple{Source: to}}
		c.edit(&f)
		if got := untranslated.Has(f); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
