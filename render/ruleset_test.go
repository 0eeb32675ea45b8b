package render

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"nfproxy/nft"
)

// testService returns a Service with a TCP port at a cluster IP and with ready endpoints on node n.
func testService(name string, created int64, frontend string, endpoints ...string) Service {
	at := netip.MustParseAddrPort(frontend)
	p := Port{Name: "p", Protocol: nft.TCP, Port: at.Port()}
	for _, e := range endpoints {
		p.Endpoints = append(p.Endpoints, Endpoint{AddrPort: netip.MustParseAddrPort(e), Ready: true, Node: "n"})
	}
	return Service{ServiceName: ServiceName{"ns", name}, Created: time.Unix(created, 0), ClusterIPs: []netip.Addr{at.Addr()}, Ports: []Port{p}}
}

// converge plans and accepts, and returns the changes.
func converge(r *Ruleset) []nft.Change {
	changes := r.Plan()
	r.Accept()
	return changes
}

// reconcile observes tables, then does the same.
func reconcile(r *Ruleset, have []*nft.Table) []nft.Change {
	r.Observe(have)
	return converge(r)
}

// BenchmarkMemory measures the bytes that a Ruleset needs per Service with three endpoints.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				r := NewRuleset(Node{Name: "n"})
				for i := range n {
					a := func(base byte) netip.AddrPort {
						return netip.AddrPortFrom(netip.AddrFrom4([4]byte{base, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
					}
					s := testService(fmt.Sprintf("service-%d", i), 1, a(10).String(), a(20).String(), a(21).String(), a(22).String())
					r.Update(Update{Node: r.node, Services: []Service{s}})
				}
				reconcile(r, nil)
				b.ReportMetric(float64(heap()-before)/float64(n), "bytes/Service")
				runtime.KeepAlive(r)
			}
		})
	}
}

// heap returns the bytes of live objects.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
