package kernel

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// TestWeights: endpoints get new connections in proportion to their weights. The bound of the chi-square statistic is exceeded less
// than once in a million runs. One in a hundred goes to a canary.
func TestWeights(t *testing.T) {
	const flows = 5000
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, weights := range [][]uint16{{1, 2}, {5, 5}, {6, 3, 9}, {1, 99}, {11, 11, 11, 11, 11, 11, 11, 11, 11, 1}, {render.MaxWeight, 999, 500}} {
			t.Run(fmt.Sprint(f, weights), func(t *testing.T) {
				l := newTestNode(t).addNetwork()
				l.facts.Counters = render.CountEndpoints
				server, source, frontend := "10.244.1.2", "10.244.9.9", "10.96.0.1:80"
				if f == nft.IPv6 {
					server, source, frontend = "fd00:10:244:1::2", "fd00:10:244:9::9", "[fd00:10:96::1]:80"
				}
				l.pod("server", 0, server)
				client := l.pod("client", 0, source)
				s := service("s", nft.UDP, frontend)
				sum := 0
				for i, w := range weights {
					e := endpoint(netip.AddrPortFrom(netip.MustParseAddr(server), uint16(10_000+i)).String())
					e.Weight = w
					s.Ports[0].Endpoints, sum = append(s.Ports[0].Endpoints, e), sum+int(w)
				}
				l.restart(s)
				sendFlows(t, client.Namespace, netip.MustParseAddrPort(frontend), flows)
				chi := 0.0
				served := servedBy(t, l, frontend)
				for i, w := range weights {
					expected := float64(flows) * float64(w) / float64(sum)
					chi += math.Pow(float64(served[s.Ports[0].Endpoints[i].AddrPort])-expected, 2) / expected
				}
				t.Logf("of %d connections: %v", flows, served)
				if bound := chiSquareBound(len(weights) - 1); chi > bound {
					t.Errorf("chi-square %.1f > %.1f: %v", chi, bound, served)
				}
			})
		}
	}
}

// servedBy returns the connections of the endpoints of a frontend.
func servedBy(t *testing.T, l *testNode, frontend string) map[netip.AddrPort]int {
	t.Helper()
	served := make(map[netip.AddrPort]int)
	for _, s := range report.Describe(l.tables()).Services {
		for _, f := range s.Frontends {
			if netip.AddrPortFrom(f.Address, f.Port).String() != frontend {
				continue
			}
			for _, e := range f.Endpoints {
				served[netip.AddrPortFrom(e.Address, e.Port)] = int(*e.Connections)
			}
		}
	}
	return served
}

// TestWeightCounters: when another endpoint goes, or their own weights grow, the counters of endpoints with several slots continue.
func TestWeightCounters(t *testing.T) {
	const flows = 600
	l := newTestNode(t).addNetwork()
	l.facts.Counters = render.CountEndpoints
	l.pod("server", 0, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	weighted := func(first int, weights ...uint16) render.Service {
		s := service("s", nft.UDP, "10.96.0.1:80")
		for i, w := range weights {
			e := endpoint(fmt.Sprintf("10.244.1.2:%d", 8080+first+i))
			e.Weight = w
			s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, e)
		}
		return s
	}
	l.restart(weighted(0, 4, 4, 3))
	sendFlows(t, client.Namespace, netip.MustParseAddrPort("10.96.0.1:80"), flows)
	before := servedBy(t, l, "10.96.0.1:80")
	if len(before) != 3 {
		t.Fatalf("served by %v, want three endpoints", before)
	}
	delete(before, netip.MustParseAddrPort("10.244.1.2:8080"))
	for _, s := range []render.Service{weighted(1, 4, 3), weighted(1, 5, 7)} {
		l.apply(render.Update{Services: []render.Service{s}})
		if after := servedBy(t, l, "10.96.0.1:80"); !maps.Equal(after, before) {
			t.Errorf("the endpoints have %v connections, want %v", after, before)
		}
	}
}

// TestWeightZero: an endpoint with weight 0 gets no new connections, not even of clients that session affinity had sent there. A
// connection that is open continues. If no other endpoint is left, connections are refused.
func TestWeightZero(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			s := newAffinityNode(t, f, nft.TCP)
			before := s.connectAll(t, s.frontends()[0])
			open, err := s.pod.Dial(t.Context(), "tcp", netip.AddrPortFrom(s.clients[0], 0).String(), s.frontends()[0])
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			drained := s.service
			drained.Ports = []render.Port{drained.Ports[0]}
			drained.Ports[0].Endpoints = append([]render.Endpoint(nil), drained.Ports[0].Endpoints...)
			for i, e := range drained.Ports[0].Endpoints {
				drained.Ports[0].Endpoints[i].Drained = e.AddrPort.String() == before[0]
			}
			s.apply(render.Update{Services: []render.Service{drained}})
			for client, endpoint := range s.connectAll(t, s.frontends()[0]) {
				if endpoint == before[0] || before[client] != before[0] && endpoint != before[client] {
					t.Errorf("client %d reached %s, before %s; %s has weight 0", client, endpoint, before[client], before[0])
				}
			}
			open.SetDeadline(time.Now().Add(connectTimeout))
			if got, err := readAnswer(open); err != nil || got.endpoint.String() != before[0] {
				t.Errorf("the open connection to %s: %v, %v", before[0], got, err)
			}
			for i := range drained.Ports[0].Endpoints {
				drained.Ports[0].Endpoints[i].Drained = true
			}
			drained.Ports = []render.Port{drained.Ports[0]}
			s.apply(render.Update{Services: []render.Service{drained}})
			if _, err := connect(s.pod.Namespace, nft.TCP, "", s.frontends()[0], connectTimeout); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("without any weight a connection gives %v, want a refusal", err)
			}
		})
	}
}
