package kernel

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nfproxy/nft"
)

// draws is how often a packet draws, at most, before it takes slot 0.
const draws = 16

// drawCase is a frontend with a number of endpoints whose slots are drawn below a class, a power of two.
type drawCase struct{ endpoints, class int }

// The last case is the worst one: all draws miss, and the packet takes slot 0.
var drawCases = []drawCase{{1, 1}, {1, 2}, {2, 2}, {3, 4}, {5, 8}, {9, 16}, {16, 16}, {513, 1024}, {1, 32768}}

// The two frontends of a case: one draws below its number of endpoints, once, the other below its class, until it meets an
// endpoint. Each has elements of its own, so that both maps have the same size.
const (
	exactPort   = 80
	drawingPort = 81
)

// drawnElements bounds the elements of a case in the map of endpoints.
const drawnElements = 20_000

// BenchmarkDraws measures what rejection sampling costs the first packet of a connection: the frontend's chain repeats a rule that
// draws a slot below a power of two, and a slot without an endpoint leads to the next draw. It reports the processor time of a
// packet, the median over rounds: "ns/exact" with one draw below the number of endpoints, "ns/packet" with draws below the class,
// and "ns/more", the difference of two rounds in succession, with its quartiles; and the mean number of draws, as counters in a
// copy of the rules count them. With services=1000 the packets go to a thousand Services in turn, whose elements are not all in
// the processor's nearest cache.
func BenchmarkDraws(b *testing.B) {
	for _, services := range []int{1, 1000} {
		n, counted := newDrawNode(b, services, false), newDrawNode(b, 1, true)
		for _, c := range drawCases {
			if services*c.endpoints > drawnElements {
				continue
			}
			b.Run(fmt.Sprintf("services=%d/endpoints=%d/class=%d", services, c.endpoints, c.class), func(b *testing.B) {
				n.in(b)
				counted.in(b)
				exactly, drawing := n.packets(c, exactPort), n.packets(c, drawingPort)
				n.injector.round(drawing) // warms the caches
				var exact, drawn, more samples
				for b.Loop() {
					one, other := n.injector.round(exactly), n.injector.round(drawing)
					exact.add(one)
					drawn.add(other)
					more.add(other - one)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(exact.median(), "ns/exact")
				b.ReportMetric(drawn.median(), "ns/packet")
				b.ReportMetric(more.quantile(.25), "ns/more25%")
				b.ReportMetric(more.median(), "ns/more50%")
				b.ReportMetric(more.quantile(.75), "ns/more75%")
				b.ReportMetric(counted.meanDraws(c), "draws/packet")
			})
		}
	}
}

// TestDraws: the mean number of draws of a packet is the expected one, in each class.
func TestDraws(t *testing.T) {
	n := newDrawNode(t, 1, true)
	for _, c := range drawCases {
		n.meanDraws(c)
	}
}

// drawNode is a node with a table like nfproxy's, whose chains draw with rejection.
type drawNode struct {
	*testNode
	injector *injector
	services int
}

// newDrawNode loads the table with nft, with a number of Services for each case.
func newDrawNode(t testing.TB, services int, counted bool) *drawNode {
	t.Helper()
	n := &drawNode{testNode: newTestNode(t).addNetwork(), services: services}
	n.injector = n.addInjector("10.128.0.0/9")
	n.nft(drawTable(services, counted), "-f", "-")
	return n
}

// in makes errors of the node fail this test.
func (n *drawNode) in(t testing.TB) { n.t, n.injector.t = t, t }

// packets returns packets to the frontends of a case at a port.
func (n *drawNode) packets(c drawCase, port uint16) stream {
	s := stream{protocol: nft.UDP, from: podSources}
	for service := range n.services {
		s.to = append(s.to, netip.AddrPortFrom(c.address(service), port))
	}
	return s
}

// address returns the address of a Service of the case.
func (c drawCase) address(service int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96 + byte(slices.Index(drawCases, c)), byte(service >> 8), byte(service)})
}

// drawTable returns the table as nft text. With counted, each rule that draws has a counter.
func drawTable(services int, counted bool) string {
	var chains, frontends, endpoints strings.Builder
	count := ""
	if counted {
		count = "counter "
	}
	draw := "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod %d map @endpoints\n"
	rule, jump := count+draw, count+"jump draw-%d\n"
	made := make(map[string]bool)
	chain := func(name string, rules ...string) {
		if !made[name] {
			made[name] = true
			fmt.Fprintf(&chains, "chain %s {\n%s}\n", name, strings.Join(rules, ""))
		}
	}
	for _, c := range drawCases {
		if services*c.endpoints > drawnElements {
			continue
		}
		one := fmt.Sprintf(rule, 1)
		chain(fmt.Sprintf("exact-%d", c.endpoints), fmt.Sprintf(rule, c.endpoints), one, "drop\n")
		chain(fmt.Sprintf("draw-%d", c.class), fmt.Sprintf(draw, c.class))
		chain(fmt.Sprintf("lb-%d", c.class), strings.Repeat(fmt.Sprintf(jump, c.class), draws), one, "drop\n")
		for s := range services {
			a := c.address(s)
			fmt.Fprintf(&frontends, "%s . udp . %d : goto exact-%d, %s . udp . %d : goto lb-%d,\n", a, exactPort, c.endpoints, a, drawingPort, c.class)
			for e := range c.endpoints {
				for _, port := range []int{exactPort, drawingPort} {
					fmt.Fprintf(&endpoints, "%s . udp . %d . %d : 10.%d.%d.%d . 8080,\n", a, port, e, 128+s%100, e>>8, e&0xff)
				}
			}
		}
	}
	return `table ip nfproxy {
map services {
	type ipv4_addr . inet_proto . inet_service : verdict
	counter
	elements = {
` + frontends.String() + `}
}
map endpoints {
	typeof ip daddr . meta l4proto . th dport . numgen random mod 65535 : ip daddr . th dport
	elements = {
` + endpoints.String() + `}
}
set cluster-ips { type ipv4_addr; }
chain prerouting { type nat hook prerouting priority dstnat; policy accept; goto dispatch; }
chain output { type nat hook output priority -100; policy accept; goto dispatch; }
chain dispatch {
	ip daddr . meta l4proto . th dport vmap @services
	ip daddr @cluster-ips drop
}
` + chains.String() + `
chain input { type nat hook input priority 100; policy accept; }
chain postrouting { type nat hook postrouting priority srcnat; policy accept; }
}
`
}

// meanDraws sends packets to the frontend of a case and returns the mean number of rules that drew, from their counters. It must
// be the expected one.
func (n *drawNode) meanDraws(c drawCase) float64 {
	n.t.Helper()
	const rounds, packets = 5, 5 * roundPackets
	chain := "lb-" + strconv.Itoa(c.class)
	before := n.countDraws(chain)
	for range rounds {
		n.injector.round(n.packets(c, drawingPort))
	}
	mean := float64(n.countDraws(chain)-before) / packets
	expected, variance := expectedDraws(float64(c.endpoints) / float64(c.class))
	// By the central limit theorem a fair choice exceeds six standard deviations once in five hundred million runs. For the
	// worst case, whose variance is that of a rare event, a margin is added.
	if bound := 6*math.Sqrt(variance/packets) + 0.05; math.Abs(mean-expected) > bound {
		n.t.Errorf("%d endpoints in the class of %d: a mean of %.3f draws, want %.3f within %.3f", c.endpoints, c.class, mean, expected, bound)
	}
	return mean
}

// expectedDraws returns the mean and the variance of the number of draws if each meets an endpoint with chance p: slot 0 counts
// as one more after the last.
func expectedDraws(p float64) (mean, variance float64) {
	var square float64
	missed := 1.0 // the chance that all draws before this one missed
	for i := 1.0; i <= draws+1; i++ {
		chance := missed * p
		if i > draws {
			chance = missed
		}
		mean += i * chance
		square += i * i * chance
		missed *= 1 - p
	}
	return mean, square - mean*mean
}

var ruleCounter = regexp.MustCompile(`counter packets (\d+) bytes \d+ (?:dnat|jump)`)

// countDraws returns the sum of the counters of a chain's rules.
func (n *drawNode) countDraws(chain string) int {
	n.t.Helper()
	sum := 0
	for _, match := range ruleCounter.FindAllStringSubmatch(n.nft("", "list", "chain", "ip", "nfproxy", chain), -1) {
		packets, err := strconv.Atoi(match[1])
		if err != nil {
			n.t.Fatal(err)
		}
		sum += packets
	}
	return sum
}
