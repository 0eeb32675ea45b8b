package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// externalAddrs are the addresses of Services in these tests, by name: the external IP and the load balancer address of web, which
// has endpoints, and those of empty, which has none. shared is an address of both.
var externalAddrs = map[nft.Family]map[string]string{
	nft.IPv4: {"web-external": "203.0.113.1", "web-lb": "203.0.113.2", "empty-external": "203.0.113.3", "empty-lb": "203.0.113.4",
		"shared": "203.0.113.5", "node-external": "192.0.2.10"},
	nft.IPv6: {"web-external": "2001:db8:cb::1", "web-lb": "2001:db8:cb::2", "empty-external": "2001:db8:cb::3", "empty-lb": "2001:db8:cb::4",
		"shared": "2001:db8:cb::5", "node-external": "2001:db8::10"},
}

// newExternalNode returns a node with these Services and settings.
func newExternalNode(t *testing.T, f nft.Family, set func(*render.Node)) *trafficNode {
	t.Helper()
	w := newTrafficNode(t, f)
	w.extra = externalAddrs[f]
	w.restart(set)
	return w
}

// externalServices returns the Services of externalAddrs.
func (w *trafficNode) externalServices() []render.Service {
	addr := func(name string) netip.Addr { return netip.MustParseAddr(w.addr(name)) }
	web := service("web", nft.TCP, w.at("web", 80), w.at("a", 8080))
	web.ExternalIPs = []netip.Addr{addr("web-external"), addr("shared"), addr("node-external")}
	web.LoadBalancerIPs = []netip.Addr{addr("web-lb")}
	empty := service("empty", nft.TCP, w.at("empty", 8000))
	empty.ExternalIPs, empty.LoadBalancerIPs = []netip.Addr{addr("empty-external"), addr("shared")}, []netip.Addr{addr("empty-lb")}
	return []render.Service{web, empty}
}

// restart programs the node with other settings, as another process would: it compares all tables. It returns the changes.
func (w *trafficNode) restart(set func(*render.Node)) []nft.Change {
	w.t.Helper()
	set(&w.facts)
	w.ruleset = render.NewRuleset(w.facts)
	w.ruleset.Update(render.Update{Node: w.facts, Services: w.externalServices()})
	return w.reconcile()
}

func refuseUnserved(n *render.Node) { n.UnservedPorts = render.RefuseUnserved }
func dropUnserved(n *render.Node)   { n.UnservedPorts = render.DropUnserved }
func passUnserved(n *render.Node)   { n.UnservedPorts = render.PassUnserved }

// TestUnservedPorts: with refuse or drop, connections to ports of external IPs and load balancer addresses that no Service has end on
// the first node, wherever they come from. Simulate and Explain agree. Other connections are as before.
func TestUnservedPorts(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newExternalNode(t, f, refuseUnserved)
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			for _, from := range []string{"client", "outside", "node"} {
				for _, to := range []string{"web-external", "web-lb", "empty-external", "empty-lb", "shared"} {
					b := behaviour{from: from, to: to, port: 81}
					t.Run(fmt.Sprintf("%s/refuse/%s from %s to %s", f, p, from, to), func(t *testing.T) { w.check(t, p, b) })
				}
			}
		}
		for _, b := range []behaviour{
			{name: "a served port of an external IP", from: "client", to: "web-external", port: 80, reach: []string{"a"}, source: "node", masqueraded: true},
			{name: "a served port of a load balancer address", from: "outside", to: "web-lb", port: 80, reach: []string{"a"}, source: "node", masqueraded: true},
			{name: "a port without endpoints", from: "outside", to: "empty-lb", port: 8000},
		} {
			t.Run(f.String()+"/refuse/"+b.name, func(t *testing.T) { w.check(t, nft.TCP, b) })
		}
		w.restart(dropUnserved)
		for _, from := range []string{"client", "outside", "node"} {
			b := behaviour{from: from, to: "web-lb", port: 81, dropped: true}
			t.Run(fmt.Sprintf("%s/drop/from %s", f, from), func(t *testing.T) {
				w.check(t, nft.TCP, b)
				w.check(t, nft.UDP, b)
			})
		}
	}
}

// onLoopback adds an address to the node's loopback interface or deletes it, and waits until the address is local or no longer is:
// the kernel changes the route of an IPv6 address in a work queue (addrconf_dad_work in net/ipv6/addrconf.c).
func (w *trafficNode) onLoopback(change func(netlink.Link, *netlink.Addr) error, name string) {
	w.t.Helper()
	bound := &netlink.Addr{IPNet: netlink.NewIPNet(netip.MustParseAddr(w.addr(name)).AsSlice()), Flags: unix.IFA_F_NODAD}
	err := w.node.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		wasLocal := isLocal(bound.IP)
		if err := change(lo, bound); err != nil {
			return err
		}
		for range 10_000 {
			if isLocal(bound.IP) != wasLocal {
				return nil
			}
			time.Sleep(time.Millisecond)
		}
		return fmt.Errorf("%s is as local as before", bound.IP)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// isLocal reports whether the kernel delivers packets to an address to this namespace.
func isLocal(addr net.IP) bool {
	routes, err := netlink.RouteGet(addr)
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// TestUnservedPortsOfNode: ports of an address that is the node's own are served by programs of the node, whether the address is a
// primary address, is bound while nfproxy runs, or lies in a route of type local. When the address is no longer bound, its unserved
// ports are refused again.
func TestUnservedPortsOfNode(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newExternalNode(t, f, refuseUnserved)
		node := &sandbox.Pod{Namespace: w.node}
		answers := func(from, at string) {
			t.Helper()
			if got, err := connect(w.from(from), nft.TCP, w.source(from), at, connectTimeout); err != nil || got.endpoint.String() != at {
				t.Errorf("%s: from %s, %v answers, %v, want %s", f, from, got.endpoint, err, at)
			}
		}
		refused := func(from string) {
			t.Helper()
			w.check(t, nft.TCP, behaviour{from: from, to: "web-lb", port: 81})
		}
		w.serve(node, netip.MustParseAddrPort(w.at("node-external", 81)))
		for _, from := range []string{"client", "outside", "node"} {
			answers(from, w.at("node-external", 81))
			refused(from)
		}
		w.onLoopback(netlink.AddrAdd, "web-lb")
		w.serve(node, netip.MustParseAddrPort(w.at("web-lb", 81)))
		for _, from := range []string{"client", "outside", "node"} {
			answers(from, w.at("web-lb", 81))
		}
		if got, err := connect(w.from("outside"), nft.TCP, w.source("outside"), w.at("web-lb", 80), connectTimeout); err != nil || got.endpoint.String() != w.at("a", 8080) {
			t.Errorf("%s: at the served port of a bound address %v answers, %v", f, got.endpoint, err)
		}
		w.onLoopback(netlink.AddrDel, "web-lb")
		for _, from := range []string{"client", "outside", "node"} {
			refused(from)
		}
		w.localRoute(netlink.RouteAdd, "web-lb")
		answers("client", w.at("web-lb", 81))
		w.localRoute(netlink.RouteDel, "web-lb")
		refused("client")
	}
}

// localRoute adds a route of type local for an address to the node or deletes it. Some load balancers make the node serve their
// addresses that way.
func (w *trafficNode) localRoute(change func(*netlink.Route) error, name string) {
	w.t.Helper()
	err := w.node.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return change(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: netlink.NewIPNet(netip.MustParseAddr(w.addr(name)).AsSlice()),
			Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestUnservedPortsOfOtherPrograms: another program translates connections to its own port of a Service's address, whether its chain
// is before nfproxy's chain, at the same priority or after it.
func TestUnservedPortsOfOtherPrograms(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, set := range []func(*render.Node){refuseUnserved, dropUnserved} {
			w := newExternalNode(t, f, set)
			for _, priority := range []int{-150, -100, -90, -1} {
				w.nft(fmt.Sprintf(`table %[1]s other { chain in { type nat hook prerouting priority %[4]d; %[1]s daddr %[2]s tcp dport 81 dnat to %[3]s; };
					chain out { type nat hook output priority %[4]d; %[1]s daddr %[2]s tcp dport 81 dnat to %[3]s; };
					chain post { type nat hook postrouting priority 100; masquerade; }; }`, f, w.addr("web-lb"), w.at("a", 8080), priority), "-f", "-")
				for _, from := range []string{"client", "outside", "node"} {
					got, err := connect(w.from(from), nft.TCP, w.source(from), w.at("web-lb", 81), connectTimeout)
					if err != nil || got.endpoint.String() != w.at("a", 8080) {
						t.Errorf("%s, priority %d, from %s: %v answers, %v", f, priority, from, got.endpoint, err)
					}
				}
				w.nft("", "delete", "table", f.String(), "other")
			}
			if _, err := connect(w.from("client"), nft.TCP, w.source("client"), w.at("web-lb", 81), unallocatedTimeout); err == nil {
				t.Errorf("%s: an unserved port answers", f)
			}
		}
	}
}

// TestUnservedPortsAtRestart: a process with other settings changes the tables in place. Affinity, counters and connections stay, and
// with the old settings the tables are those of before, byte by byte.
func TestUnservedPortsAtRestart(t *testing.T) {
	w := newExternalNode(t, nft.IPv4, passUnserved)
	before := w.nft("", "list", "ruleset")
	for _, set := range []func(*render.Node){
		refuseUnserved, dropUnserved,
		func(n *render.Node) { n.AnswerPing = true },
		func(n *render.Node) { n.UnservedPorts, n.AnswerPing = render.RefuseUnserved, false },
		passUnserved,
	} {
		for _, c := range w.restart(set) {
			switch o := c.Object.(type) {
			case *nft.Table, nft.DynamicElements:
				t.Errorf("not in place: %s", c.Summary())
			case *nft.Set:
				if o.Name != "external-addresses" && o.Name != "ping" {
					t.Errorf("not in place: %s", c.Summary())
				}
			case nft.Elements:
				if o.Set.Name != "external-addresses" && o.Set.Name != "ping" {
					t.Errorf("not in place: %s", c.Summary())
				}
			}
		}
		if again := w.reconcile(); len(again) > 0 {
			t.Errorf("after the change nfproxy finds %v to change", again)
		}
	}
	if after := w.nft("", "list", "ruleset"); sortedListing(after) != sortedListing(before) {
		t.Errorf("the tables were\n%s\nand are\n%s", before, after)
	}
}

// TestUnservedPortsErrors: an ICMP error about a packet of a connection is addressed to the Service, has no port, and reaches the
// endpoint: the client is gone, and the endpoint learns it.
func TestUnservedPortsErrors(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, set := range []func(*render.Node){refuseUnserved, dropUnserved} {
			w := newExternalNode(t, f, func(n *render.Node) { n.AnswerPing = true; set(n) })
			udp := service("udp", nft.UDP, w.at("one", 81), w.at("b", 9000))
			udp.ExternalIPs = []netip.Addr{netip.MustParseAddr(w.addr("web-external"))}
			w.apply(render.Update{Services: []render.Service{udp}})
			endpoint, err := w.pods["b"].ListenPacket("udp", w.at("b", 9000))
			if err != nil {
				t.Fatal(err)
			}
			client, err := w.from("outside").Dial(t.Context(), "udp", w.source("outside"), w.at("web-external", 81))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(client, "?")
			endpoint.SetDeadline(time.Now().Add(connectTimeout))
			_, from, err := endpoint.ReadFrom(make([]byte, 8))
			client.Close()
			endpoint.Close()
			if err != nil {
				t.Fatalf("%s: the endpoint got no packet: %v", f, err)
			}
			reply, err := w.pods["b"].Dial(t.Context(), "udp", w.at("b", 9000), from.String())
			if err != nil {
				t.Fatal(err)
			}
			reply.SetDeadline(time.Now().Add(connectTimeout))
			fmt.Fprint(reply, "!")
			if _, err := reply.Read(make([]byte, 8)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: the endpoint gets %v, want %v", f, err, syscall.ECONNREFUSED)
			}
			reply.Close()
		}
	}
}
