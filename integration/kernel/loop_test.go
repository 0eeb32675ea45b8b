package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// loopNode is a node behind a router: the router routes the addresses of Services to the node, and the node's default route leads
// back to the router.
//
//	client --- router --- node
type loopNode struct {
	*testNode
	family         nft.Family
	client, router *sandbox.Namespace
	addrs          map[string]string
	counted        int // packets that had arrived at the last call of arrived
}

// loopAddrs are the addresses by name.
var loopAddrs = map[nft.Family]map[string]string{
	nft.IPv4: {"client": "198.51.100.7", "router-client": "198.51.100.1", "router-node": "192.0.2.1", "node": "192.0.2.10",
		"external": "203.0.113.1", "lb": "203.0.113.2", "empty": "203.0.113.3", "cluster": "10.96.0.1", "cluster-empty": "10.96.0.2"},
	nft.IPv6: {"client": "2001:db8:51::7", "router-client": "2001:db8:51::1", "router-node": "2001:db8::1", "node": "2001:db8::10",
		"external": "2001:db8:cb::1", "lb": "2001:db8:cb::2", "empty": "2001:db8:cb::3", "cluster": "fd00:10:96::1", "cluster-empty": "fd00:10:96::2"},
}

func newLoopNode(t *testing.T, f nft.Family) *loopNode {
	t.Helper()
	w := &loopNode{testNode: newTestNode(t), family: f, addrs: loopAddrs[f]}
	for _, ns := range []**sandbox.Namespace{&w.client, &w.router} {
		made, err := sandbox.NewNamespace()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { made.Close() })
		*ns = made
	}
	for _, ns := range []*sandbox.Namespace{w.client, w.router, w.node} {
		w.in(ns, func() error {
			return errors.Join(forward(), ns.RaiseLoopback())
		})
	}
	w.link(w.client, "client", w.router, "router-client")
	w.link(w.node, "node", w.router, "router-node")
	w.route(w.client, "", "router-client")
	w.route(w.node, "", "router-node")
	for _, name := range []string{"external", "lb", "empty"} {
		w.route(w.router, name, "node")
	}
	for range 100 { // until the addresses can be used and the neighbours are known
		if got, _ := ping(w.client, w.addrs["client"], netip.MustParseAddr(w.addrs["node"]), silent); got == replied {
			break
		}
	}
	w.nft(countedTable(w.addrs["external"], w.addrs["lb"], w.addrs["empty"]), "-f", "-")
	return w
}

// forward makes a namespace a router that accepts every source and does not limit the rate of its ICMP errors.
func forward() error {
	var errs []error
	for name, value := range map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0",
		"ipv4/conf/default/rp_filter": "0", "ipv6/conf/default/accept_dad": "0", "ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0"} {
		errs = append(errs, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
	}
	return errors.Join(errs...)
}

// in calls a function in a namespace. An error fails the test.
func (w *loopNode) in(ns *sandbox.Namespace, f func() error) {
	w.t.Helper()
	if err := ns.Do(f); err != nil {
		w.t.Fatal(err)
	}
}

// link connects two namespaces by interfaces with the names of the addresses that they get.
func (w *loopNode) link(a *sandbox.Namespace, nameA string, b *sandbox.Namespace, nameB string) {
	w.t.Helper()
	w.in(a, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.Fd())})
	})
	for name, ns := range map[string]*sandbox.Namespace{nameA: a, nameB: b} {
		w.in(ns, func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			addr := netip.MustParseAddr(w.addrs[name])
			mask := net.CIDRMask(addr.BitLen()-8, addr.BitLen())
			return errors.Join(netlink.LinkSetUp(link),
				netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: mask}, Flags: unix.IFA_F_NODAD}))
		})
	}
}

// route adds a route to an address, or the default route, by the neighbour with another address.
func (w *loopNode) route(ns *sandbox.Namespace, to, via string) {
	w.t.Helper()
	r := &netlink.Route{Gw: netip.MustParseAddr(w.addrs[via]).AsSlice()}
	if to != "" {
		r.Dst = netlink.NewIPNet(netip.MustParseAddr(w.addrs[to]).AsSlice())
	}
	w.in(ns, func() error { return netlink.RouteAdd(r) })
}

// countedTable counts the packets to addresses that arrive at a node, before any translation.
func countedTable(addrs ...string) string {
	var b strings.Builder
	b.WriteString("table inet counted { chain arriving { type filter hook prerouting priority -300;\n")
	for _, a := range addrs {
		family := "ip"
		if strings.Contains(a, ":") {
			family = "ip6"
		}
		b.WriteString(family + " daddr " + a + " counter\n")
	}
	return b.String() + "}; }\n"
}

// arrived returns how many packets to the Services' addresses have arrived at the node since the last call.
func (w *loopNode) arrived() int {
	w.t.Helper()
	sum := 0
	fields := strings.Fields(w.nft("", "list", "table", "inet", "counted"))
	for i, f := range fields {
		if f == "packets" && fields[i-1] == "counter" {
			n, err := strconv.Atoi(fields[i+1])
			if err != nil {
				w.t.Fatal(err)
			}
			sum += n
		}
	}
	before := w.counted
	w.counted = sum
	return sum - before
}

// program gives the node the settings and two Services, of which one has an endpoint: the node itself.
func (w *loopNode) program(set func(*render.Node)) {
	w.t.Helper()
	set(&w.facts)
	at := func(name string, port uint16) string {
		return netip.AddrPortFrom(netip.MustParseAddr(w.addrs[name]), port).String()
	}
	addr := func(name string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(w.addrs[name])} }
	web := service("web", nft.TCP, at("cluster", 80), at("node", 8080))
	web.ExternalIPs, web.LoadBalancerIPs = addr("external"), addr("lb")
	empty := service("empty", nft.TCP, at("cluster-empty", 80))
	empty.LoadBalancerIPs = addr("empty")
	w.ruleset = render.NewRuleset(w.facts)
	w.ruleset.Update(render.Update{Node: w.facts, Services: []render.Service{web, empty}})
	w.reconcile()
}

// send sends one UDP packet to a port that no Service has and returns the error that the client gets: ECONNREFUSED for port unreachable,
// a timeout for silence and for time exceeded, which is no error of a UDP socket (icmp_err_convert in net/ipv4/icmp.c).
func (w *loopNode) send(name string, refused bool) error {
	to := netip.AddrPortFrom(netip.MustParseAddr(w.addrs[name]), 81).String()
	timeout := pingTimeout
	if refused {
		timeout = connectTimeout
	}
	_, err := connect(w.client, nft.UDP, "", to, timeout)
	return err
}

// TestRoutingLoop: a router routes a Service's address to the node, and the node's default route leads back to the router. A packet to
// a port that no Service has circulates until its hop limit is used up. With refuse it arrives once and the client gets an error, with
// drop it arrives once and the client gets none. The same holds for pings; with --answer-ping those to addresses with endpoints arrive
// once and are answered.
func TestRoutingLoop(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newLoopNode(t, f)
		for _, c := range []struct {
			name string
			set  func(*render.Node)
			// loops: a packet arrives more often than once.
			loops            bool
			refused          error // what a client of UDP gets, nil for a timeout
			ping, answerable pong  // to addresses without endpoints and with one
		}{
			{"pass", passUnserved, true, nil, expired, expired},
			{"refuse", refuseUnserved, false, syscall.ECONNREFUSED, unreachable, unreachable},
			{"drop", dropUnserved, false, nil, silent, silent},
			{"drop and answer", func(n *render.Node) { n.AnswerPing = true }, false, nil, silent, replied},
		} {
			w.program(c.set)
			w.arrived()
			arrived := func(what string) {
				if n := w.arrived(); n != 1 && !c.loops || n < 25 && c.loops {
					t.Errorf("%s, %s: %s arrived %d times", f, c.name, what, n)
				}
			}
			for _, name := range []string{"external", "lb", "empty"} {
				if err := w.send(name, c.refused != nil); c.refused != nil && !errors.Is(err, c.refused) || c.refused == nil && !isTimeout(err) {
					t.Errorf("%s, %s: the client gets %v, want %v", f, c.name, err, c.refused)
				}
				arrived("a packet to " + name)
				want := c.answerable
				if name == "empty" {
					want = c.ping
				}
				if got, err := ping(w.client, w.addrs["client"], netip.MustParseAddr(w.addrs[name]), want); got != want || err != nil {
					t.Errorf("%s, %s: a ping of %s: %s, %v, want %s", f, c.name, name, got, err, want)
				}
				if want != expired {
					arrived("a ping of " + name)
				}
				w.arrived()
			}
		}
	}
}
