package kernel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// newMaglevNode returns a node whose Service hashes, with many clients.
func newMaglevNode(t *testing.T, f nft.Family, p nft.Protocol, h render.Hashing) *affinityNode {
	t.Helper()
	s := newAffinityNode(t, f, p)
	s.service.Affinity, s.service.Hashing = 0, h
	s.restart(s.service)
	return s
}

// simulated returns the endpoint that Simulate finds for a client.
func (s *affinityNode) simulated(client netip.Addr, frontend string) string {
	table := s.tables()[0]
	if s.family == nft.IPv6 {
		table = s.tables()[1]
	}
	return nft.Simulate(table, nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP, Source: netip.AddrPortFrom(client, 40_000),
		Destination: netip.MustParseAddrPort(frontend)}).Destination.String()
}

// TestMaglevClients: a client meets one endpoint, over all frontends, again and again, and after a restart: the one that Simulate finds
// with its own hash. Without that endpoint only its clients, and few others, meet another one.
func TestMaglevClients(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			s := newMaglevNode(t, f, nft.TCP, render.HashClients)
			before := s.connectAll(t, s.frontends()[0])
			used := make(map[string]bool)
			for i, endpoint := range before {
				used[endpoint] = true
				if want := s.simulated(s.clients[i], s.frontends()[0]); endpoint != want {
					t.Errorf("client %s reached %s, but Simulate finds %s", s.clients[i], endpoint, want)
				}
			}
			if len(used) != len(s.service.Ports[0].Endpoints) {
				t.Errorf("%d clients reached %d endpoints", len(before), len(used))
			}
			if changes := s.restart(s.service); len(changes) > 0 {
				t.Errorf("a restart changes %v", changes)
			}
			for _, frontend := range s.frontends() {
				if got := moved(before, s.connectAll(t, frontend), ""); len(got) > 0 {
					t.Errorf("over %s other endpoints answered: %v", frontend, got)
				}
			}
			gone := before[0]
			s.apply(render.Update{Services: []render.Service{s.without(gone)}})
			after := s.connectAll(t, s.frontends()[0])
			others := 0
			for i := range before {
				if after[i] == gone {
					t.Errorf("client %s reached %s, which is gone", s.clients[i], gone)
				}
				if before[i] != gone && before[i] != after[i] {
					others++
				}
			}
			if others > len(before)/10 {
				t.Errorf("%d clients of other endpoints moved", others)
			}
		})
	}
}

// TestMaglevConnections: the connections of one client are spread over all endpoints, and those from one port meet one endpoint, over all
// frontends.
func TestMaglevConnections(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			s := newMaglevNode(t, f, nft.UDP, render.HashConnections)
			used := make(map[netip.AddrPort]bool)
			for port := range uint16(60) {
				var first netip.AddrPort
				for _, frontend := range s.frontends() {
					from := netip.AddrPortFrom(s.clients[0], 30_000+port).String()
					got, err := connect(s.pod.Namespace, nft.UDP, from, frontend, connectTimeout)
					if err != nil {
						t.Fatal(err)
					}
					if used[got.endpoint] = true; first.IsValid() && got.endpoint != first {
						t.Errorf("from %s: first %s, then %s", from, first, got.endpoint)
					}
					first = got.endpoint
				}
			}
			if len(used) != len(s.service.Ports[0].Endpoints) {
				t.Errorf("60 connections reached %d endpoints", len(used))
			}
		})
	}
}

// BenchmarkMaglevChange measures a change of one endpoint of a Service that hashes.
func BenchmarkMaglevChange(b *testing.B) {
	benchmarkAlgorithm(b, func(s *render.Service, i int) {
		s.Hashing = render.HashClients
		s.Ports[0].Endpoints[0].AddrPort = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 201, 0, byte(i % 2)}), 8080)
	})
}

// BenchmarkWeightChange measures a change of the weight of one endpoint from 2 to 3 and back. The others have the weight 2, so that each
// has two slots while the weight is 3, and one while it is 2.
func BenchmarkWeightChange(b *testing.B) {
	benchmarkAlgorithm(b, func(s *render.Service, i int) {
		for e := range s.Ports[0].Endpoints {
			s.Ports[0].Endpoints[e].Weight = 2
		}
		s.Ports[0].Endpoints[0].Weight = uint16(2 + i%2)
	})
}

// BenchmarkLimitChange measures a change of the limit of a Service on new connections.
func BenchmarkLimitChange(b *testing.B) {
	benchmarkAlgorithm(b, func(s *render.Service, i int) {
		s.Limits.Rate = nft.Limit{Packets: uint64(100 + i%2), Per: time.Second, Burst: 100}
	})
}

// benchmarkAlgorithm measures a change of one Service among 1,000, by the number of its endpoints, up to the commit, and what the change
// writes. Function variant makes the Service that it has at step i.
func benchmarkAlgorithm(b *testing.B, variant func(s *render.Service, i int)) {
	for _, endpoints := range []int{3, 100, 1000} {
		b.Run(fmt.Sprintf("endpoints=%d", endpoints), func(b *testing.B) {
			l, _ := newLoadedNode(b, 1000)
			at := func(i int) []render.Service {
				s := clusterService(7, 0, 0)
				for e := range endpoints {
					addr := netip.AddrFrom4([4]byte{10, 200, byte(e >> 8), byte(e)})
					s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, render.Endpoint{AddrPort: netip.AddrPortFrom(addr, 8080), Node: "node-b", Ready: true})
				}
				variant(&s, i)
				return []render.Service{s}
			}
			l.apply(render.Update{Services: at(0)})
			i, operations := 0, 0
			before := l.kernel.Traffic()
			for b.Loop() {
				i++
				operations += nft.ElementOperations(l.apply(render.Update{Services: at(i)}))
			}
			after := l.kernel.Traffic()
			b.ReportMetric(float64(operations)/float64(i), "elements/op")
			b.ReportMetric(float64(after.Sent-before.Sent)/float64(i), "sent-B/op")
		})
	}
}
