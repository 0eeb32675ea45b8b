package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// sizes are the numbers of Services that the benchmarks measure.
var sizes = []int{1_000, 10_000, 100_000}

// cluster returns n Services with one port and three endpoints.
func cluster(n int) []render.Service {
	services := make([]render.Service, n)
	for i := range services {
		services[i] = clusterService(i, 3, 0)
	}
	return services
}

// clusterService returns Service number i with a number of endpoints. The variant determines the address of the first one.
func clusterService(i, endpoints, variant int) render.Service {
	a := func(base byte, n int) netip.Addr {
		return netip.AddrFrom4([4]byte{base, byte(n >> 16), byte(n >> 8), byte(n)})
	}
	s := render.Service{
		ServiceName: render.ServiceName{Namespace: fmt.Sprintf("namespace-%d", i%100), Name: fmt.Sprintf("service-%d", i)},
		ClusterIPs:  []netip.Addr{a(10, i+1)},
		Ports:       []render.Port{{Name: "http", Protocol: nft.TCP, Port: 80}},
	}
	for e := range endpoints {
		base := byte(20 + e)
		if e == 0 {
			base += byte(100 * variant)
		}
		node := "node-b"
		if i%100 == 0 {
			node = "node-a"
		}
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints,
			render.Endpoint{AddrPort: netip.AddrPortFrom(a(base, i), 8080), Node: node, Ready: true})
	}
	return s
}

// BenchmarkLoad measures a first start: from Services in memory to all of them in an empty kernel.
func BenchmarkLoad(b *testing.B) {
	for _, n := range sizes {
		services := cluster(n)
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				l := newTestNode(b)
				l.readByKey(kernel.ManyElements)
				b.StartTimer()
				l.ruleset.Update(render.Update{Node: l.facts, Services: services})
				l.reconcile()
				b.StopTimer()
				l.node.Close()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkRestart measures a start over the tables of an earlier run: they are read, while the rules of the Services are made, and
// compared, and nothing is changed.
func BenchmarkRestart(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			l, services := newLoadedNode(b, n)
			for b.Loop() {
				var tables []*nft.Table
				var err error
				var reading sync.WaitGroup
				reading.Go(func() { tables, _, err = l.kernel.ReadReachable(render.Instance{}.TableIDs()...) })
				l.ruleset = render.NewRuleset(l.facts)
				l.ruleset.Update(render.Update{Node: l.facts, Services: services})
				if reading.Wait(); err != nil {
					b.Fatal(err)
				}
				l.ruleset.Observe(tables)
				if changes := l.ruleset.Plan(); len(changes) > 0 {
					b.Fatalf("a restart applies %d changes, want none", len(changes))
				}
				l.ruleset.Accept()
			}
		})
	}
}

// BenchmarkReplaceEndpoint measures the change of one endpoint's address, up to the commit.
func BenchmarkReplaceEndpoint(b *testing.B) {
	benchmarkChange(b, func(i int) render.Service { return clusterService(7, 3, i%2) }, 2)
}

// BenchmarkAddRemoveEndpoint measures adding a fourth endpoint to a Service and removing it again, up to the commit. The
// frontend's verdict stays.
func BenchmarkAddRemoveEndpoint(b *testing.B) {
	benchmarkChange(b, func(i int) render.Service { return clusterService(7, 3+i%2, 0) }, 1)
}

// BenchmarkChangeVerdict measures removing the third endpoint of a Service and adding it again, up to the commit. The frontend's
// verdict changes, and the kernel checks all verdicts.
func BenchmarkChangeVerdict(b *testing.B) {
	benchmarkChange(b, func(i int) render.Service { return clusterService(7, 3-i%2, 0) }, 3)
}

// BenchmarkNewBalancingChain measures the first Service of a size, which adds the size's chains: each of them looks up the map of all
// endpoints. It reports the median over the sizes from 8 to 1,024 as "ns/size"; the other Services have three endpoints.
func BenchmarkNewBalancingChain(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			var took samples
			for b.Loop() {
				b.StopTimer()
				l, _ := newLoadedNode(b, n)
				b.StartTimer()
				for size := 8; size <= 1024; size *= 2 {
					many := clusterService(7, 0, 0)
					for i := range size {
						at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), 8080)
						many.Ports[0].Endpoints = append(many.Ports[0].Endpoints, render.Endpoint{AddrPort: at, Node: "node-b", Ready: true})
					}
					start := time.Now()
					l.apply(render.Update{Services: []render.Service{many}})
					took.add(time.Since(start))
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took.median(), "ns/size")
		})
	}
}

// BenchmarkRestoreElement measures the repair of one element that another program deleted, as the daemon makes it: from the
// notification up to the commit.
func BenchmarkRestoreElement(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			l, services := newLoadedNode(b, n)
			foreign := openKernel(b, l.node)
			s := render.SchemaOf(nft.IPv4).Services
			frontend := render.Frontend{AddrPort: netip.AddrPortFrom(services[7].ClusterIPs[0], 80), Protocol: nft.TCP}
			one := nft.Elements{Set: s, List: []nft.Element{{Key: frontend.Key()}}}
			for b.Loop() {
				b.StopTimer()
				if err := foreign.Apply([]nft.Change{{Op: nft.Delete, Object: one}}, 0); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				found, err := l.kernel.ReadElements(one)
				if err != nil {
					b.Fatal(err)
				}
				changes := l.ruleset.Restore(one, found)
				if len(changes) != 1 {
					b.Fatalf("%d changes", len(changes))
				}
				if err := l.kernel.Apply(changes, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchmarkChange measures a change of one Service among many. Each change must take this number of element operations.
func benchmarkChange(b *testing.B, variant func(i int) render.Service, operations int) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			l, _ := newLoadedNode(b, n)
			i := 0
			for b.Loop() {
				i++
				changes := l.apply(render.Update{Services: []render.Service{variant(i)}})
				if got := nft.ElementOperations(changes); got != operations {
					b.Fatalf("%d element operations, want %d: %v", got, operations, changes)
				}
			}
		})
	}
}

// newLoadedNode returns a node with n Services programmed, and the Services.
func newLoadedNode(b *testing.B, n int) (*testNode, []render.Service) {
	l, services := newTestNode(b), cluster(n)
	l.readByKey(kernel.ManyElements)
	l.facts.ServiceCIDRs = prefixes("10.0.0.0/8")
	l.ruleset.Update(render.Update{Node: l.facts, Services: services})
	l.reconcile()
	return l, services
}

// TestChangeIsSmall: one changed endpoint takes at most four element operations among 10,000 Services.
func TestChangeIsSmall(t *testing.T) {
	const services = 10_000
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(services)})
	l.reconcile()
	for _, c := range []struct {
		name string
		to   render.Service
		want int // element operations; replacing an element takes two
	}{
		{"replaced endpoint", clusterService(7, 3, 1), 2},
		{"replaced local endpoint", clusterService(100, 3, 1), 4},
		{"added endpoint", clusterService(8, 4, 0), 1},
		{"removed endpoint", clusterService(8, 3, 0), 1},
		{"removed endpoint, to a power of two", clusterService(9, 2, 0), 3},
		{"no change", clusterService(10, 3, 0), 0},
	} {
		changes := l.apply(render.Update{Services: []render.Service{c.to}})
		if got := nft.ElementOperations(changes); got != c.want || got > 4 {
			t.Errorf("%s: %d element operations, want %d: %v", c.name, got, c.want, changes)
		}
		if c.want == 0 && len(changes) > 0 {
			t.Errorf("%s: got changes %v", c.name, changes)
		}
	}
	if rest := nft.Diff(l.tables(), l.ruleset.Tables()); !onlyUnusedChains(rest) {
		t.Errorf("the kernel differs by %v", rest)
	}
}

// BenchmarkAffinityConnect measures a connection through a Service with session affinity by the number of its endpoints, from
// connect to the refusal: all endpoints are closed ports of one pod. The rules do the same work as for open ports.
func BenchmarkAffinityConnect(b *testing.B) {
	for _, n := range []int{10, 1_000, 5_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			l := newTestNode(b).addNetwork()
			l.pod("server", 0, "10.244.1.2")
			client := l.pod("client", 0, "10.244.9.9")
			s := service("s", nft.TCP, "10.96.0.1:80")
			s.Affinity = 3 * time.Hour
			for port := range n {
				s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, endpoint(fmt.Sprintf("10.244.1.2:%d", 10_000+port)))
			}
			l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{s}})
			l.reconcile()
			for b.Loop() {
				if _, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout); !errors.Is(err, syscall.ECONNREFUSED) {
					b.Fatal(err)
				}
			}
			if got := l.tables()[0].Set("affinity/test/s/tcp/main"); len(got.Elements) != 1 {
				b.Fatalf("clients in the map: %v, want one", got.Elements)
			}
		})
	}
}
