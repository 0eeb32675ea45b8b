package kernel

import (
	"net/netip"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestGoneEndpointResets: a connection to a Pod that was killed without FIN is silent until its entry is deleted. What answers its
// next packet then depends on the frontend.
func TestGoneEndpointResets(t *testing.T) {
	for family, addrs := range flowAddrs {
		addrs := goneAddrs{addrs.client, addrs.a, addrs.b, addrs.node, netip.MustParseAddrPort(addrs.frontend).Addr().String(), balancerAddrs[family]}
		outside := map[nft.Family]string{nft.IPv4: "198.51.100.7", nft.IPv6: "2001:db8:99::7"}[family]
		left := []string{at(addrs.b, 8080)}
		for _, c := range []struct {
			name string
			from string // the address of the client's Pod, empty for the node itself
			to   string
			set  func(*render.Service)
			then []string // the endpoints after the Pod is gone
			want end
		}{
			{"cluster IP, another endpoint", addrs.client, at(addrs.cluster, 80), nil, left, connReset},
			{"cluster IP, no endpoint", addrs.client, at(addrs.cluster, 80), nil, nil, connReset},
			{"cluster IP, no ready endpoint", addrs.client, at(addrs.cluster, 80), nil, []string{left[0] + " unready"}, connReset},
			{"cluster IP, from the node", "", at(addrs.cluster, 80), nil, left, connReset},
			{"cluster IP, from the node, no endpoint", "", at(addrs.cluster, 80), nil, nil, connReset},
			{"cluster IP, masqueraded", outside, at(addrs.cluster, 80), nil, left, connReset},
			{"external IP", outside, at(addrs.balancer, 80), nil, left, connReset},
			{"external IP, no endpoint", outside, at(addrs.balancer, 80), nil, nil, connReset},
			{"node port", outside, at(addrs.node, 30080), nil, left, connReset},
			{"node port, no endpoint", outside, at(addrs.node, 30080), nil, nil, connReset},
			{"node port, policy Local", outside, at(addrs.node, 30080), policyLocal, left, connReset},
			{"node port, policy Local, no local endpoint", outside, at(addrs.node, 30080), policyLocal, []string{left[0] + " remote"}, connSilent},
			{"session affinity", addrs.client, at(addrs.cluster, 80), func(s *render.Service) { s.Affinity = time.Hour }, left, connReset},
		} {
			t.Run(family.String()+"/"+c.name, func(t *testing.T) { testGoneEndpoint(t, addrs, c.from, c.to, c.set, c.then, c.want) })
		}
	}
}

// goneAddrs are the addresses of a client, two endpoints, the node, and a Service.
type goneAddrs struct{ client, a, b, node, cluster, balancer string }

func policyLocal(s *render.Service) { s.ExternalLocal = true }

// service returns the Service of the tests.
func (g goneAddrs) service(set func(*render.Service), endpoints ...string) render.Service {
	s := service("web", nft.TCP, at(g.cluster, 80), endpoints...)
	s.ExternalIPs, s.Ports[0].NodePort = []netip.Addr{netip.MustParseAddr(g.balancer)}, 30080
	if set != nil {
		set(&s)
	}
	return s
}

func testGoneEndpoint(t *testing.T, addrs goneAddrs, from, to string, set func(*render.Service), then []string, want end) {
	l := newGoneNode(t)
	a := l.echoPod("a", 8080, addrs.a)
	l.echoPod("b", 8080, addrs.b)
	client := l.node
	if from != "" {
		client = l.pod("client", 0, from).Namespace
	}
	l.program(addrs.service(set, at(addrs.a, 8080)))
	c := l.open(client, to)
	l.unplug(a)
	l.program(addrs.service(set, then...))
	if deleted := l.pass(goneDelay - 1); deleted != nil {
		t.Errorf("within the delay: deleted %v", deleted)
	}
	c.expect(connSilent)
	l.oneFlow(l.pass(1), at(addrs.a, 8080))
	c.expect(want)
}

// TestGoneEndpointWithoutLoose: with nf_conntrack_tcp_loose=0 a packet in the middle of a connection has no conntrack entry and is not
// translated.
func TestGoneEndpointWithoutLoose(t *testing.T) {
	for family, addrs := range flowAddrs {
		addrs := goneAddrs{addrs.client, addrs.a, addrs.b, addrs.node, netip.MustParseAddrPort(addrs.frontend).Addr().String(), balancerAddrs[family]}
		for _, c := range []struct {
			name, from, to string
			then           []string
			want           end
		}{
			{"cluster IP", addrs.client, at(addrs.cluster, 80), []string{at(addrs.b, 8080)}, connSilent},
			{"cluster IP, no endpoint", addrs.client, at(addrs.cluster, 80), nil, connSilent},
			{"cluster IP, from the node", "", at(addrs.cluster, 80), nil, connSilent},
			{"external IP", addrs.client, at(addrs.balancer, 80), nil, connSilent},
			{"node port", addrs.client, at(addrs.node, 30080), nil, connSilent},
		} {
			t.Run(family.String()+"/"+c.name, func(t *testing.T) {
				l := newGoneNode(t)
				l.setLoose("0")
				a := l.echoPod("a", 8080, addrs.a)
				l.echoPod("b", 8080, addrs.b)
				client := l.node
				if c.from != "" {
					client = l.pod("client", 0, c.from).Namespace
				}
				l.program(addrs.service(nil, at(addrs.a, 8080)))
				conn := l.open(client, c.to)
				l.unplug(a)
				l.program(addrs.service(nil, c.then...))
				l.oneFlow(l.pass(goneDelay), at(addrs.a, 8080))
				conn.expect(c.want)
			})
		}
	}
}
