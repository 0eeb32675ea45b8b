package differential

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/sandbox"
)

// node is the network of one proxy: a node, its pods and everything else that sends packets to it or receives packets from it.
//
//	pod, pod2, pod3    pods of this node; their interfaces on the node are pod1, pod2 and pod3
//	remote, remote2    pods of another node
//	other              that other node itself
//	outside, outside2  hosts outside the cluster
//	world              the gateway of the default routes; it answers at every address
//
// All of them except world are servers and clients.
type node struct {
	name    string // of the proxy
	network *sandbox.Network
	places  []*place
	servers *servers
}

// place is where packets come from.
type place struct {
	name    string
	ns      *sandbox.Namespace
	sources [2]sources // IPv4, IPv6
	serves  bool       // endpoints can be there
}

// sources are the addresses of a place of one family. If pool is valid, the place owns all of its addresses, and each can be
// used once as a client that no proxy has seen before.
type sources struct {
	addr netip.Addr // the place's main address; the zero value leaves the choice to the kernel
	pool netip.Prefix
	used int
}

// shape lists what is connected to a node, in the order of the interfaces pod1, pod2, ... The clients with pools are no endpoints: an
// endpoint cannot answer itself unless its connection is masqueraded.
var shape = []struct {
	name  string
	addrs []string // the first one of each family is the main address; a server listens at each
	pools []string
}{
	{"pod", []string{"10.244.1.9", "fd00:10:244:1::9"}, []string{"10.244.16.0/20", "fd00:10:244:16::/64"}},
	{"pod2", []string{"10.244.1.2", "fd00:10:244:1::2"}, nil},
	{"pod3", []string{"10.244.1.3", "fd00:10:244:1::3"}, nil},
	{"remote", []string{"10.244.129.9", "fd00:10:244:8001::9"}, []string{"10.244.144.0/20", "fd00:10:244:8010::/64"}},
	{"remote2", []string{"10.244.129.2", "10.244.129.3", "fd00:10:244:8001::2", "fd00:10:244:8001::3"}, nil},
	{"other", []string{"192.0.2.11", "2001:db8::11"}, nil},
	{"outside", []string{"198.51.100.7", "2001:db8:51::7"}, []string{"198.18.0.0/20", "2001:db8:18::/64"}},
	{"outside2", []string{"203.0.113.200", "2001:db8:52::7"}, nil},
}

// silent are the members of the shape from which no probes are sent: others send the same.
var silent = []string{"pod3", "remote2"}

// Addresses of the node. The first one of each family is the source of its own connections.
var nodeAddrs = addrs("192.0.2.10", "192.0.2.20", "2001:db8::10", "2001:db8::20")

// hostRoutes are addresses of the node that are on no interface: ip route add local.
var hostRoutes = addrs("203.0.113.8", "2001:db8:113::8")

// boundAddrs are addresses of the service range that the node has, and that no Service has.
var boundAddrs = addrs("10.96.0.250", "fd00:10:96::250")

// listenerPort is a port at which a process on the node listens, at all addresses.
const listenerPort = 7000

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// newNode makes the network of one proxy. It ends with the test.
func newNode(t *testing.T, name string) *node {
	t.Helper()
	n := &node{name: name, servers: &servers{t: t}}
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	if n.network, err = sandbox.NewNetwork(ns, nodeAddrs...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.network.Close(); err != nil {
			t.Error(err)
		}
		ns.Close()
	})
	for i, s := range shape {
		pod, err := n.network.AddPod(s.name, addrs(s.addrs...)...)
		if err != nil {
			t.Fatal(err)
		}
		p := &place{name: s.name, ns: pod.Namespace, serves: slices.ContainsFunc(endpointServers, func(v server) bool { return slices.Contains(s.addrs, v.addr4) })}
		for _, a := range addrs(s.addrs...) {
			n.servers.start(pod.Namespace, a)
			if own := &p.sources[index(a)]; !own.addr.IsValid() {
				own.addr = a
			}
		}
		for _, text := range s.pools {
			pool := netip.MustParsePrefix(text)
			p.sources[index(pool.Addr())].pool = pool
			check(t, addPool(ns, fmt.Sprintf("pod%d", i+1), pod.Namespace, pool))
		}
		if !slices.Contains(silent, s.name) {
			n.places = append(n.places, p)
		}
	}
	n.places = append(n.places, &place{name: "node", ns: ns})
	n.addWorld(t)
	n.addOwnAddresses(t)
	return n
}

// place returns the place with a name.
func (n *node) place(name string) *place {
	for _, p := range n.places {
		if p.name == name {
			return p
		}
	}
	return nil
}

// addOwnAddresses gives the node addresses and listeners besides its main ones, and lifts the limits for ICMP errors: kube-proxy
// refuses by ICMP, and a refusal that is not sent looks like a drop.
func (n *node) addOwnAddresses(t *testing.T) {
	t.Helper()
	ns := n.network.Node()
	check(t, inNamespace(ns, func(h *netlink.Handle) error {
		uplink, err := h.LinkByName("uplink0")
		if err != nil {
			return err
		}
		for _, a := range boundAddrs {
			if err := h.AddrAdd(uplink, &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice()), Flags: unix.IFA_F_NODAD}); err != nil {
				return err
			}
		}
		for _, a := range hostRoutes {
			if err := addLocal(h, netip.PrefixFrom(a, a.BitLen()), unix.RT_TABLE_LOCAL); err != nil {
				return err
			}
		}
		return nil
	}))
	for name, value := range map[string]string{"ipv4/icmp_ratemask": "0", "ipv4/icmp_msgs_per_sec": "1000000", "ipv4/icmp_msgs_burst": "1000000", "ipv6/icmp/ratelimit": "0"} {
		check(t, ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }))
	}
	for _, a := range nodeAddrs {
		n.servers.start(ns, a)
	}
	for _, a := range slices.Concat(boundAddrs, hostRoutes, linkLocal) {
		n.servers.serveSCTP(ns, a)
	}
	n.servers.listen(ns, netip.IPv4Unspecified(), listenerPort)
	n.servers.listen(ns, netip.IPv6Unspecified(), listenerPort)
}

// addWorld makes a namespace that answers at every address the gateway of the node's default routes. An answer from there means
// that a packet has left the node untranslated.
func (n *node) addWorld(t *testing.T) {
	t.Helper()
	world, err := n.network.AddPod("world", addrs("100.64.0.1", "2001:db8:64::1")...)
	if err != nil {
		t.Fatal(err)
	}
	check(t, inNamespace(world.Namespace, func(h *netlink.Handle) error {
		const table = 100
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			prefix := netip.MustParsePrefix(all)
			if err := addLocal(h, prefix, table); err != nil {
				return err
			}
			rule := netlink.NewRule()
			rule.Family, rule.IifName, rule.Table, rule.Priority = familyOf(prefix.Addr()), "eth0", table, 1
			if err := h.RuleAdd(rule); err != nil {
				return err
			}
		}
		return nil
	}))
	check(t, world.Namespace.Run(`table inet world {
	chain arrivals {
		type nat hook prerouting priority dstnat
		meta l4proto { tcp, udp } redirect to :9
	}
}`, "nft", "-f", "-"))
	n.servers.listen(world.Namespace, netip.IPv4Unspecified(), 9)
	n.servers.listen(world.Namespace, netip.IPv6Unspecified(), 9)
	n.servers.serveSCTP(world.Namespace, netip.IPv4Unspecified())
	n.servers.serveSCTP(world.Namespace, netip.IPv6Unspecified())
	check(t, inNamespace(n.network.Node(), func(h *netlink.Handle) error {
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			prefix := netip.MustParsePrefix(all)
			old, err := h.RouteListFiltered(familyOf(prefix.Addr()), &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: ipNet(prefix)},
				netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
			if err != nil || len(old) != 1 {
				return fmt.Errorf("default route %s: %v %w", prefix, old, err)
			}
			if err := h.RouteDel(&old[0]); err != nil {
				return err
			}
			if err := addVia(h, fmt.Sprintf("pod%d", len(shape)+1), prefix, old[0].Src); err != nil {
				return err
			}
		}
		return nil
	}))
}

// addPool gives a pod all addresses of a prefix, and routes them from the node to it.
func addPool(node *sandbox.Namespace, link string, pod *sandbox.Namespace, pool netip.Prefix) error {
	if err := inNamespace(pod, func(h *netlink.Handle) error { return addLocal(h, pool, unix.RT_TABLE_LOCAL) }); err != nil {
		return err
	}
	return inNamespace(node, func(h *netlink.Handle) error { return addVia(h, link, pool, nil) })
}

// addLocal makes all addresses of a prefix addresses of a namespace.
func addLocal(h *netlink.Handle, prefix netip.Prefix, table int) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(prefix), Type: unix.RTN_LOCAL, Table: table, Scope: unix.RT_SCOPE_HOST})
}

// addVia routes a prefix to the pod behind a link of the node. The next hop is the one that package sandbox uses.
func addVia(h *netlink.Handle, link string, prefix netip.Prefix, source []byte) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return err
	}
	next := netip.MustParseAddr("169.254.1.2")
	if prefix.Addr().Is6() {
		next = netip.MustParseAddr("fe80::2")
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(prefix), Gw: next.AsSlice(), Src: source, Flags: int(netlink.FLAG_ONLINK)})
}

// inNamespace calls f with a route netlink socket of a namespace.
func inNamespace(ns *sandbox.Namespace, f func(*netlink.Handle) error) error {
	return ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// output returns the standard output of a program in a namespace.
func output(ns *sandbox.Namespace, name string, args ...string) (text string, err error) {
	err = ns.Do(func() error {
		out, err := exec.Command(name, args...).Output()
		text = string(out)
		return err
	})
	return text, err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// index returns 0 for IPv4 and 1 for IPv6.
func index(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
