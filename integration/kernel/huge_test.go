package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestHugeService: a Service with 1,000 ports, one with 10,000 endpoints and an ordinary one are programmed completely, in one
// transaction: they are within the bound for one Service.
func TestHugeService(t *testing.T) {
	l := newTestNode(t)
	service := func(name, clusterIP string) render.Service {
		return render.Service{ServiceName: render.ServiceName{Namespace: "test", Name: name}, ClusterIPs: []netip.Addr{netip.MustParseAddr(clusterIP)}}
	}
	endpoint := func(i int) render.Endpoint {
		return render.Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 80), Ready: true}
	}
	wide, deep, plain := service("wide", "10.96.0.1"), service("deep", "10.96.0.2"), service("plain", "10.96.0.3")
	for i := range 1000 {
		wide.Ports = append(wide.Ports, render.Port{Name: fmt.Sprint("p", i), Protocol: nft.TCP, Port: uint16(i + 1),
			Endpoints: []render.Endpoint{endpoint(i), endpoint(i + 1)}})
	}
	deep.Ports = []render.Port{{Protocol: nft.TCP, Port: 80}}
	for i := range 10_000 {
		deep.Ports[0].Endpoints = append(deep.Ports[0].Endpoints, endpoint(i))
	}
	plain.Ports = []render.Port{{Protocol: nft.TCP, Port: 80, Endpoints: []render.Endpoint{endpoint(1)}}}
	for _, s := range []*render.Service{&wide, &deep, &plain} {
		*s = render.Bound(l.facts, *s)
	}
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{wide, deep, plain}})
	l.reconcile()
	table := l.tables()[0]
	for set, want := range map[string]int{"services": 1000 + 1 + 1, "endpoints": 2*1000 + 10_000 + 1} {
		if got := len(table.Set(set).Elements); got != want {
			t.Errorf("set %s has %d elements, want %d", set, got, want)
		}
	}
}
