package metrics

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfproxy/nft"
	"nfproxy/render"
)

// localService returns a Service with internalTrafficPolicy Local, a cluster IP, and a ready endpoint on each of the nodes.
func localService(name string, nodes ...string) render.Service {
	s := render.Service{
		ServiceName:   render.ServiceName{Namespace: "ns1", Name: name},
		ClusterIPs:    []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		InternalLocal: true,
		Ports:         []render.Port{{Name: "http", Protocol: nft.TCP, Port: 80}},
	}
	for i, node := range nodes {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 1)}), 8080)
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, render.Endpoint{AddrPort: at, Node: node, Ready: true, Serving: true})
	}
	return s
}

// TestNoLocal: a port counts by policy and family if it has usable endpoints, none of them on the node.
func TestNoLocal(t *testing.T) {
	internal4, external4 := noLocalKey{internalPolicy, nft.IPv4}, noLocalKey{externalPolicy, nft.IPv4}
	dual := []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")}
	for _, c := range []struct {
		name   string
		nodes  []string
		change func(*render.Service)
		want   map[noLocalKey]int
	}{
		{"endpoint on another node", []string{"node-b"}, nil, map[noLocalKey]int{internal4: 1}},
		{"endpoint on this node", []string{"node-b", "node-a"}, nil, nil},
		{"no endpoint", nil, nil, nil},
		{"policy Cluster", []string{"node-b"}, func(s *render.Service) { s.InternalLocal = false }, nil},
		{"serving terminating endpoint on this node", []string{"node-b", "node-a"}, func(s *render.Service) {
			s.Ports[0].Endpoints[1].Ready, s.Ports[0].Endpoints[1].Terminating = false, true
		}, nil},
		{"endpoint on this node is not ready", []string{"node-b", "node-a"}, func(s *render.Service) {
			s.Ports[0].Endpoints[1].Ready, s.Ports[0].Endpoints[1].Serving = false, false
		}, map[noLocalKey]int{internal4: 1}},
		{"serving terminating endpoint on another node", []string{"node-b"}, func(s *render.Service) {
			s.Ports[0].Endpoints[0].Ready, s.Ports[0].Endpoints[0].Terminating = false, true
		}, map[noLocalKey]int{internal4: 1}},
		{"both policies, by node port", []string{"node-b"}, func(s *render.Service) {
			s.ExternalLocal, s.Ports[0].NodePort = true, 30080
		}, map[noLocalKey]int{internal4: 1, external4: 1}},
		{"external policy, by load balancer", []string{"node-b"}, func(s *render.Service) {
			s.InternalLocal, s.ExternalLocal = false, true
			s.LoadBalancerIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		}, map[noLocalKey]int{external4: 1}},
		{"external policy, other family's address", []string{"node-b"}, func(s *render.Service) {
			s.InternalLocal, s.ExternalLocal = false, true
			s.ExternalIPs = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
		}, nil},
		{"two ports", []string{"node-b"}, func(s *render.Service) {
			p := s.Ports[0]
			p.Name, p.Port = "https", 443
			s.Ports = append(s.Ports, p)
		}, map[noLocalKey]int{internal4: 2}},
		{"dual-stack with only IPv6 endpoints", nil, func(s *render.Service) {
			s.ClusterIPs = dual
			s.Ports[0].Endpoints = []render.Endpoint{{AddrPort: netip.MustParseAddrPort("[fd00:1::1]:8080"), Node: "node-b", Ready: true}}
		}, map[noLocalKey]int{{internalPolicy, nft.IPv6}: 1}},
		{"no cluster IP", []string{"node-b"}, func(s *render.Service) { s.ClusterIPs = nil }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, counter := localService("web", c.nodes...), newNoLocalCounter()
			if c.change != nil {
				c.change(&s)
			}
			counter.update(render.Update{Node: render.Node{Name: "node-a"}, Services: []render.Service{s}})
			wantTotals(t, &counter, c.want)
			counter.update(render.Update{Removed: []render.ServiceName{s.ServiceName}})
			wantTotals(t, &counter, nil)
		})
	}
}

// TestNoLocalUpdates: the totals depend on the current Services and node, not on earlier updates.
func TestNoLocalUpdates(t *testing.T) {
	counter, key := newNoLocalCounter(), noLocalKey{internalPolicy, nft.IPv4}
	update := func(want int, u render.Update) {
		t.Helper()
		counter.update(u)
		wantTotals(t, &counter, map[noLocalKey]int{key: want})
	}
	a, b := render.Node{Name: "node-a"}, render.Node{Name: "node-b"}
	both := []render.Service{localService("one", "node-b"), localService("two", "node-b")}
	update(2, render.Update{Node: a, Services: both})
	update(2, render.Update{Node: a, Services: both})
	update(1, render.Update{Node: a, Services: []render.Service{localService("one", "node-b", "node-a")}})
	update(2, render.Update{Node: a, Services: []render.Service{localService("one", "node-b")}})
	update(1, render.Update{Node: a, Removed: []render.ServiceName{both[1].ServiceName}})
	update(1, render.Update{Node: a, Removed: []render.ServiceName{both[1].ServiceName}})
	update(0, render.Update{Node: b, Services: both})
}

func wantTotals(t *testing.T, counter *noLocalCounter, want map[noLocalKey]int) {
	t.Helper()
	nonZero := func(m map[noLocalKey]int) map[noLocalKey]int {
		m = maps.Clone(m)
		maps.DeleteFunc(m, func(_ noLocalKey, n int) bool { return n == 0 })
		if len(m) == 0 {
			return nil
		}
		return m
	}
	if diff := cmp.Diff(nonZero(want), nonZero(counter.totals), cmp.AllowUnexported(noLocalKey{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
