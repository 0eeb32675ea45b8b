package render_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestAffinityOfLocalOnlyEndpoint: an endpoint that serves only connections that are restricted to this node, because it is
// terminating and others are ready, is remembered only for them.
func TestAffinityOfLocalOnlyEndpoint(t *testing.T) {
	const (
		all   = "affinity/test/web/tcp/80"
		local = "affinity-local/test/web/tcp/80"
	)
	external := netip.MustParseAddr("203.0.113.1")
	terminating := render.Endpoint{AddrPort: netip.MustParseAddrPort("10.244.1.2:80"), Node: "n", Serving: true, Terminating: true}
	ready := render.Endpoint{AddrPort: netip.MustParseAddrPort("10.244.2.2:80"), Node: "m", Ready: true, Serving: true}
	readyHere := render.Endpoint{AddrPort: netip.MustParseAddrPort("10.244.1.3:80"), Node: "n", Ready: true, Serving: true}
	for _, c := range []struct {
		name      string
		endpoints []render.Endpoint
		source    string
		maps      []string
	}{
		{"from outside to a terminating endpoint", []render.Endpoint{terminating, ready}, "198.51.100.7", []string{local}},
		{"from a Pod to another node", []render.Endpoint{terminating, ready}, "10.244.1.9", []string{all}},
		{"from outside to a ready endpoint", []render.Endpoint{readyHere}, "198.51.100.7", []string{local, all}},
		{"from a Pod to a ready endpoint", []render.Endpoint{readyHere}, "10.244.1.9", []string{local, all}},
	} {
		s := render.Service{ServiceName: render.ServiceName{Namespace: "test", Name: "web"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
			ExternalIPs: []netip.Addr{external}, ExternalLocal: true, Affinity: time.Hour, Ports: []render.Port{{Protocol: nft.TCP, Port: 80, Endpoints: c.endpoints}}}
		tables := build(t, render.Update{Services: []render.Service{s},
			Node: render.Node{Name: "n", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}})
		path := nft.Simulate(tables[0], nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP,
			Source: netip.AddrPortFrom(netip.MustParseAddr(c.source), 1234), Destination: netip.AddrPortFrom(external, 80)})
		var maps []string
		for _, step := range path.Steps {
			if update, ok := step.Matched.Do.(nft.Update); ok {
				maps = append(maps, update.Map)
			}
		}
		slices.Sort(maps)
		if path.Outcome != nft.Accepted || !slices.Equal(maps, c.maps) {
			t.Errorf("%s: remembered in %q, want %q", c.name, maps, c.maps)
		}
	}
}
