package kernel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// The rules of nodes without nfproxy. A rule that reads connection tracking turns it on, wherever it is.
const (
	trackingTable = "table ip tracking { chain unused { ct state new; }; }"
	natTable      = trackingTable + `
	table ip nat {
		chain prerouting { type nat hook prerouting priority -100; }
		chain output { type nat hook output priority -100; }
		chain input { type nat hook input priority 100; }
		chain unallocated { type nat hook postrouting priority 99; }
		chain postrouting { type nat hook postrouting priority 100; }
	}`
)

// BenchmarkFirstPacket measures what the first packet of a connection costs on its way through a node, by what it is addressed to.
// It reports the processor time of a packet, the median over rounds: "ns/packet"; "ns/direct" for packets from the same sources on
// a node that tracks connections and has no proxy; and "ns/more", the difference of two rounds in succession, with its quartiles. The
// time includes connection tracking, routing and the devices, but no socket. "ns/cold" and "ns/cold-more" are the same by the clock, for
// packets between which the processor does other work: then the rules and the elements are no longer in its nearest caches.
func BenchmarkFirstPacket(b *testing.B) {
	direct := newBareNode(b, trackingTable)
	b.Run("no-proxy/untracked", func(b *testing.B) {
		s := toNoService(podSources)
		s.untracked = true
		newBareNode(b, "").benchmark(b, s, direct)
	})
	b.Run("no-proxy/nat-hooks", func(b *testing.B) { newBareNode(b, natTable).benchmark(b, toNoService(podSources), direct) })
	// What remains without the rules of one base chain, and without the lookup that refuses undefined ports.
	for _, without := range []string{"prerouting", "unallocated", "postrouting", "undefined ports"} {
		b.Run("no-service/without="+without, func(b *testing.B) {
			n := newFirstPacketNode(b, 10_000)
			n.remove(without)
			n.benchmark(b, toNoService(podSources), direct)
		})
	}
	for _, services := range []int{1, 1_000, 10_000, 100_000} {
		n := newFirstPacketNode(b, services)
		b.Run(fmt.Sprintf("no-service/services=%d", services), func(b *testing.B) { n.benchmark(b, toNoService(podSources), direct) })
		b.Run(fmt.Sprintf("cluster-ip/services=%d", services), func(b *testing.B) { n.benchmark(b, n.toAll(services), direct) })
		if services != 10_000 {
			continue
		}
		for _, kind := range firstPacketKinds() {
			b.Run(fmt.Sprintf("%s/services=%d", kind.name, services), func(b *testing.B) { n.benchmark(b, kind.stream, direct) })
		}
	}
}

// TestFirstPacket: each kind of packet that BenchmarkFirstPacket sends is tracked or refused, and meets the frontend it should meet.
func TestFirstPacket(t *testing.T) {
	n := newFirstPacketNode(t, 1)
	n.injector.round(toNoService(podSources))
	for _, kind := range firstPacketKinds() {
		n.injector.round(kind.stream)
		if got := n.connections(kind.to[0]); kind.counted && got != roundPackets || !kind.counted && got != 0 {
			t.Errorf("%s: the kernel counts %d packets to %s", kind.name, got, kind.to[0])
		}
	}
}

// firstPacketNode is a node through which an injector sends packets.
type firstPacketNode struct {
	*testNode
	injector *injector
}

// routedPrefixes contain all destinations that are not the node: endpoints, and addresses that are no Service's.
var routedPrefixes = []string{"20.0.0.0/8", "21.0.0.0/8", "22.0.0.0/8", "10.245.0.0/16"}

// newBareNode returns a node with a table of nft text, and without nfproxy's.
func newBareNode(t testing.TB, table string) *firstPacketNode {
	t.Helper()
	n := &firstPacketNode{testNode: newTestNode(t).addNetwork()}
	n.injector = n.addInjector(routedPrefixes...)
	n.nft(table, "-f", "-")
	return n
}

// newFirstPacketNode returns a node with nfproxy's tables: a number of Services with three endpoints, and one for each kind of
// packet.
func newFirstPacketNode(t testing.TB, services int) *firstPacketNode {
	t.Helper()
	n := newBareNode(t, "")
	n.facts.ServiceCIDRs = prefixes("10.0.0.0/10", "10.96.0.0/16")
	all := cluster(services)
	for i := range all {
		all[i].Ports[0].Protocol = nft.UDP
	}
	endpoints := []string{"20.1.0.1:8080 remote", "20.1.0.2:8080 remote", "20.1.0.3:8080 remote"}
	external := func(name, vip, external string) render.Service {
		s := service(name, nft.UDP, vip, endpoints...)
		s.ExternalIPs = []netip.Addr{netip.MustParseAddr(external)}
		return s
	}
	local := service("local", nft.UDP, "10.96.0.4:80", "20.1.0.1:8080", "20.1.0.2:8080", "20.1.0.3:8080 remote")
	local.ExternalIPs, local.ExternalLocal = []netip.Addr{netip.MustParseAddr("203.0.113.4")}, true
	nodePort := service("node-port", nft.UDP, "10.96.0.5:80", endpoints...)
	nodePort.Ports[0].NodePort = 30005
	affinity := service("affinity", nft.UDP, "10.96.0.6:80", endpoints...)
	affinity.Affinity = 3 * time.Hour
	ranges := service("ranges", nft.UDP, "10.96.0.7:80", endpoints...)
	ranges.LoadBalancerIPs, ranges.SourceRanges = []netip.Addr{netip.MustParseAddr("203.0.113.7")}, prefixes("198.18.0.0/16", "192.0.2.0/24")
	all = append(all, service("one", nft.UDP, "10.96.0.1:80", endpoints[0]), service("three", nft.UDP, "10.96.0.2:80", endpoints...),
		external("external", "10.96.0.3:80", "203.0.113.3"), local, nodePort, affinity, ranges, service("empty", nft.TCP, "10.96.0.8:80"))
	limited, limitedClients := service("limited", nft.UDP, "10.96.0.9:80", endpoints...), service("limited-clients", nft.UDP, "10.96.0.10:80", endpoints...)
	ample := nft.Limit{Packets: render.MaxConnectionRate, Per: time.Second, Burst: render.MaxConnectionRate}
	limited.Limits.Rate, limitedClients.Limits.ClientRate = ample, ample
	all = append(all, limited, limitedClients)
	n.ruleset.Update(render.Update{Node: n.facts, Services: all})
	n.reconcile()
	return n
}

// remove removes the rules of a base chain, or those after the first lookup of chain dispatch.
func (n *firstPacketNode) remove(rules string) {
	if rules != "undefined ports" {
		n.nft("", "flush", "chain", "ip", "nfproxy", rules)
		return
	}
	n.nft("flush chain ip nfproxy dispatch; add rule ip nfproxy dispatch ip daddr . meta l4proto . th dport vmap @services", "-f", "-")
}

// firstPacketKind is a kind of packet with a frontend of its own.
type firstPacketKind struct {
	name string
	stream
	counted bool // the frontend exists, and counts connections
}

func firstPacketKinds() []firstPacketKind {
	udp := func(from netip.Prefix, to string) stream {
		return stream{protocol: nft.UDP, from: from, to: []netip.AddrPort{netip.MustParseAddrPort(to)}}
	}
	syn := func(to string) stream {
		return stream{protocol: nft.TCP, from: podSources, to: []netip.AddrPort{netip.MustParseAddrPort(to)}, untracked: true}
	}
	return []firstPacketKind{
		{"one-endpoint", udp(podSources, "10.96.0.1:80"), true},
		{"three-endpoints", udp(podSources, "10.96.0.2:80"), true},
		{"external-ip", udp(podSources, "203.0.113.3:80"), true},
		{"local/from-pod", udp(podSources, "203.0.113.4:80"), true},
		{"node-port", udp(outsideSources, "192.0.2.10:30005"), true},
		{"affinity", udp(podSources, "10.96.0.6:80"), true},
		{"source-ranges", udp(outsideSources, "203.0.113.7:80"), true},
		{"limited", udp(podSources, "10.96.0.9:80"), true},
		{"limited-clients", udp(podSources, "10.96.0.10:80"), true},
		{"no-endpoint", syn("10.96.0.8:80"), true},
		{"undefined-port", syn("10.96.0.2:81"), false},
		{"from-outside", udp(outsideSources, "10.96.0.3:80"), true},
	}
}

// toNoService returns packets to an address that is no Service's.
func toNoService(from netip.Prefix) stream {
	return stream{protocol: nft.UDP, from: from, to: []netip.AddrPort{netip.MustParseAddrPort("10.245.0.1:80")}}
}

// toAll returns packets to the cluster IPs of all Services of function cluster.
func (n *firstPacketNode) toAll(services int) stream {
	s := stream{protocol: nft.UDP, from: podSources}
	for i := range services {
		s.to = append(s.to, netip.AddrPortFrom(clusterService(i, 0, 0).ClusterIPs[0], 80))
	}
	return s
}

// connections returns the counter of a frontend.
func (n *firstPacketNode) connections(at netip.AddrPort) uint64 {
	n.t.Helper()
	var sum uint64
	for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
		key := render.Frontend{AddrPort: at, Protocol: p}.Key()
		for _, e := range n.tables()[0].Set("services").Elements {
			if e.Key == key && e.Counter != nil {
				sum += e.Counter.Packets
			}
		}
	}
	return sum
}

// benchmark alternates rounds of packets through the node and rounds of packets from the same sources through another one.
func (n *firstPacketNode) benchmark(b *testing.B, s stream, direct *firstPacketNode) {
	n.injector.t, direct.injector.t = b, b
	plain := toNoService(s.from)
	n.injector.round(s) // warms the caches
	var without, with, more, cold, coldMore samples
	for b.Loop() {
		one, other := direct.injector.round(plain), n.injector.round(s)
		without.add(one)
		with.add(other)
		more.add(other - one)
		one, other = direct.injector.coldRound(plain), n.injector.coldRound(s)
		cold.add(other)
		coldMore.add(other - one)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(without.median(), "ns/direct")
	b.ReportMetric(with.median(), "ns/packet")
	b.ReportMetric(more.quantile(.25), "ns/more25%")
	b.ReportMetric(more.median(), "ns/more50%")
	b.ReportMetric(more.quantile(.75), "ns/more75%")
	b.ReportMetric(cold.median(), "ns/cold")
	b.ReportMetric(coldMore.median(), "ns/cold-more")
}
