package kernel

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
	"nfproxy/sandbox"

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

// BenchmarkListMillionFlows measures the CPU time, of the kernel and of the process, that it takes to go through a conntrack table of
// 1,000,000 entries. The table is one for all network namespaces, and by default a namespace has at most 262,144 entries: four
// namespaces have 250,000 each, and a fifth one has none. So "empty" is what the kernel takes to go through the table, and
// a list of 1,000,000 entries of one namespace takes four times "tcp", less three times "empty".
func BenchmarkListMillionFlows(b *testing.B) {
	const namespaces, each = 4, 250_000
	var node *sandbox.Namespace
	for range namespaces {
		node = newTestNode(b).node
		newFlowEntries(b, node).addMany(nft.TCP, each)
	}
	full, empty := openConntrack(b, node), openConntrack(b, newTestNode(b).node)
	tcp := conntrack.Filter{Family: nft.IPv4, Protocol: nft.TCP}
	frontend := tcp
	frontend.Destination = benchFrontend(7)
	none := tcp
	none.Destination = netip.MustParseAddrPort("10.96.0.200:50")
	decoded := func(list func(conntrack.Filter, func(conntrack.Flow)) error, filter conntrack.Filter) func() (int, error) {
		return func() (listed int, err error) {
			err = list(filter, func(conntrack.Flow) { listed++ })
			return listed, err
		}
	}
	for _, c := range []struct {
		name string
		list func() (int, error)
		want int
	}{
		{"tcp", decoded(full.List, tcp), each},
		{"undecoded", undecodedList(b, node), each},
		{"frontend", decoded(full.List, frontend), each / 100},
		{"none", decoded(full.List, none), 0},
		{"empty", decoded(empty.List, tcp), 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			before := cpuTime(b)
			for b.Loop() {
				if listed, err := c.list(); err != nil || listed != c.want {
					b.Fatalf("listed %d flows, want %d: %v", listed, c.want, err)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// undecodedList returns a function that counts the entries of a namespace without looking into them: the floor for any list.
func undecodedList(b *testing.B, ns *sandbox.Namespace) func() (int, error) {
	b.Helper()
	var socket *nlmsg.Socket
	err := ns.Do(func() (err error) {
		socket, err = nlmsg.Dial()
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { socket.Close() })
	return func() (listed int, err error) {
		const get = 1 // IPCTNL_MSG_CT_GET
		err = socket.Exchange(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, get), unix.NLM_F_DUMP, unix.AF_INET, nil, func([]byte) error {
			listed++
			return nil
		})
		return listed, err
	}
}

// cpuTime returns the CPU time of the process so far, with that of its system calls.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
