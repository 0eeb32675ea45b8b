//go:build linux

package conformance

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"nfproxy/sandbox"
)

// pair is an IPv4 and an IPv6 address.
type pair struct{ v4, v6 netip.Addr }

func newPair(v4, v6 string) pair { return pair{netip.MustParseAddr(v4), netip.MustParseAddr(v6)} }

// The addresses of the cluster.
var (
	gateway  = newPair("172.30.0.1", "fd00:172:30::1")
	control  = newPair("172.30.0.2", "fd00:172:30::2")
	external = newPair("172.29.0.2", "fd00:172:29::2") // of a client outside the nodes' networks, in the control plane's namespace
)

// nodeAddr returns the addresses of a node, which are numbered from 1.
func nodeAddr(i int) pair {
	return newPair(fmt.Sprintf("172.30.0.%d", 10+i), fmt.Sprintf("fd00:172:30::%x", 10+i))
}

// podCIDR4 and podCIDR6 return the ranges of a node's Pods.
func podCIDR4(i int) string { return fmt.Sprintf("10.244.%d.0/24", i) }
func podCIDR6(i int) string { return fmt.Sprintf("fd00:10:244:%d::/64", i) }

// The ranges of all Pods.
const (
	clusterCIDR4 = "10.244.0.0/16"
	clusterCIDR6 = "fd00:10:244::/48"
)

// network is the bridge with the namespaces that hang on it.
type network struct {
	bridge  *sandbox.Namespace // routes nothing to the outside
	control *sandbox.Namespace
	nodes   []*sandbox.Namespace
}

// newNetwork creates the namespaces of a cluster, with static routes between them.
func newNetwork(t testing.TB, nodes int) *network {
	t.Helper()
	n := &network{bridge: newNamespace(t), control: newNamespace(t)}
	ip(t, n.bridge, `link add br0 type bridge forward_delay 0
		link set br0 up
		addr add %s/24 dev br0
		addr add %s/64 dev br0 nodad
		route add unreachable default
		route add unreachable ::/0`, gateway.v4, gateway.v6)
	n.plug(t, "control", n.control, control)
	ip(t, n.control, "addr add %s/32 dev lo\n addr add %s/128 dev lo nodad", external.v4, external.v6)
	for i := 1; i <= nodes; i++ {
		n.nodes = append(n.nodes, newNamespace(t))
		n.plug(t, fmt.Sprintf("node%d", i), n.nodes[i-1], nodeAddr(i))
	}
	n.addRoutes(t, n.bridge, 0)
	n.addRoutes(t, n.control, 0)
	for i, node := range n.nodes {
		n.addRoutes(t, node, i+1)
	}
	return n
}

// plug connects a namespace with the bridge.
func (n *network) plug(t testing.TB, name string, ns *sandbox.Namespace, addrs pair) {
	t.Helper()
	ip(t, n.bridge, "link add %s type veth peer name eth0 netns /proc/%d/fd/%d\n link set %[1]s master br0 up", name, os.Getpid(), ns.Fd())
	ip(t, ns, `link set eth0 up
		addr add %s/24 dev eth0
		addr add %s/64 dev eth0 nodad
		route add default via %s
		route add default via %s`, addrs.v4, addrs.v6, gateway.v4, gateway.v6)
}

// addRoutes adds, in a namespace, the routes to the Pods of all nodes but node itself, and to the external client.
func (n *network) addRoutes(t testing.TB, ns *sandbox.Namespace, node int) {
	t.Helper()
	if ns != n.control {
		ip(t, ns, "route add %s via %s\n route add %s via %s", external.v4, control.v4, external.v6, control.v6)
	}
	for i := range n.nodes {
		if via := nodeAddr(i + 1); i+1 != node {
			ip(t, ns, "route add %s via %s\n route add %s via %s", podCIDR4(i+1), via.v4, podCIDR6(i+1), via.v6)
		}
	}
}

// nodeSysctls are parameters of a network namespace. ip_forward comes first because it resets others.
var nodeSysctls = []struct{ name, value string }{
	{"ipv4/ip_forward", "1"},
	{"ipv6/conf/all/forwarding", "1"},
	{"ipv6/conf/default/forwarding", "1"},
	{"ipv4/conf/all/rp_filter", "0"},
	{"ipv4/conf/default/rp_filter", "0"},
	{"ipv6/conf/all/accept_ra", "0"},
	{"ipv6/conf/default/accept_ra", "0"},
	{"ipv4/fib_multipath_hash_policy", "1"}, // the stand-in for load balancers spreads connections, not clients
	{"ipv6/fib_multipath_hash_policy", "1"},
}

// newNamespace creates a namespace that routes. It ends with the test.
func newNamespace(t testing.TB) *sandbox.Namespace {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		for _, p := range nodeSysctls {
			if err := os.WriteFile("/proc/sys/net/"+p.name, []byte(p.value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// ip runs commands of ip(8), one a line, in a namespace.
func ip(t testing.TB, ns *sandbox.Namespace, format string, args ...any) {
	t.Helper()
	if err := ns.Run(strings.ReplaceAll(fmt.Sprintf(format, args...), "\t", ""), "ip", "-batch", "-"); err != nil {
		t.Fatal(err)
	}
}
