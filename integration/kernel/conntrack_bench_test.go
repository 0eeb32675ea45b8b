package kernel

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/conntrack"
)

// addMany adds n flows, evenly to a hundred frontends.
func (e flowEntries) addMany(p nft.Protocol, n int) {
	e.t.Helper()
	for i := range n {
		source := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 16), byte(i >> 8)}), uint16(10_000+i%256))
		e.add(p, source, benchFrontend(i%100), netip.MustParseAddrPort("10.244.200.1:5353"))
	}
}

func benchFrontend(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), uint16(50+i%4))
}

// BenchmarkListFlows measures what a conntrack cleanup costs apart from deletions: it lists flows from a table of 100,000,
// half of them UDP and half TCP, a hundredth of each to one frontend.
func BenchmarkListFlows(b *testing.B) {
	const each = 50_000
	l := newTestNode(b)
	flows, entries := openConntrack(b, l.node), newFlowEntries(b, l.node)
	entries.addMany(nft.UDP, each)
	entries.addMany(nft.TCP, each)
	udp := conntrack.Filter{Family: nft.IPv4, Protocol: nft.UDP}
	to := func(n int) (filters []conntrack.Filter) {
		for i := range n {
			f := udp
			f.Destination = benchFrontend(i)
			filters = append(filters, f)
		}
		return filters
	}
	tcp := conntrack.Filter{Family: nft.IPv4, Protocol: nft.TCP}
	translated, ofPort, of := tcp, tcp, tcp // what a cleanup of endpoints that are gone lists, at best nothing
	translated.DestinationNAT, ofPort.EndpointPort, of.Endpoint = true, 9, netip.MustParseAddrPort("10.244.200.1:9")
	for _, c := range []struct {
		name    string
		filters []conntrack.Filter
		listed  int
	}{
		{"udp", []conntrack.Filter{udp}, each},
		{"frontends=1", to(1), each / 100},
		{"frontends=4", to(4), 4 * each / 100},
		{"frontends=8", to(8), 8 * each / 100},
		{"tcp", []conntrack.Filter{tcp}, each},
		{"tcp-translated", []conntrack.Filter{translated}, 0},
		{"tcp-port", []conntrack.Filter{ofPort}, 0},
		{"tcp-endpoint", []conntrack.Filter{of}, 0},
		{"none", []conntrack.Filter{{Family: nft.IPv6, Protocol: nft.SCTP}}, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				listed := 0
				for _, filter := range c.filters {
					if err := flows.List(filter, func(conntrack.Flow) { listed++ }); err != nil {
						b.Fatal(err)
					}
				}
				if listed != c.listed {
					b.Fatalf("listed %d flows, want %d", listed, c.listed)
				}
			}
		})
	}
}

// BenchmarkDeleteFlows deletes 10,000 flows while it lists them.
func BenchmarkDeleteFlows(b *testing.B) {
	const n = 10_000
	l := newTestNode(b)
	flows, entries := openConntrack(b, l.node), newFlowEntries(b, l.node)
	for b.Loop() {
		b.StopTimer()
		entries.addMany(nft.UDP, n)
		b.StartTimer()
		deleted := 0
		err := flows.List(conntrack.Filter{Family: nft.IPv4, Protocol: nft.UDP}, func(f conntrack.Flow) {
			if err := flows.Delete(f); err != nil {
				b.Fatal(err)
			}
			deleted++
		})
		if err != nil || deleted != n {
			b.Fatal(deleted, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/flow")
}

// BenchmarkListFlowsUnfiltered lists the table of BenchmarkListFlows as kube-proxy does, with its library and without any
// filter but the family. kube-proxy pays this twice, because its library lists the table again to delete from it.
func BenchmarkListFlowsUnfiltered(b *testing.B) {
	const each = 50_000
	l := newTestNode(b)
	entries := newFlowEntries(b, l.node)
	entries.addMany(nft.UDP, each)
	entries.addMany(nft.TCP, each)
	b.ReportAllocs()
	for b.Loop() {
		flows, err := entries.handle.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		if err != nil || len(flows) != 2*each {
			b.Fatal(len(flows), err)
		}
	}
}
