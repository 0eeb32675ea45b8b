//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
)

// uplink is the node's link for its default routes. It leads nowhere.
const uplink = "uplink0"

var errNotOurs = errors.New("not a network namespace of the sandbox")

// Network is a node and its pods:
//
//	pod namespace                 node namespace
//	eth0: the pod's addresses     pod1: 169.254.1.1, fe80::1
//	  default via the node ------   the pod's addresses via the pod
//	                              uplink0: the node's addresses
//	                                default, to nowhere
//
// Its methods may be used concurrently.
type Network struct {
	node    *Namespace
	nowhere *Namespace   // the far end of the uplink
	addrs   []netip.Addr // of the node
	ipv6    bool         // the kernel has IPv6

	mu     sync.Mutex
	routes *netlink.Handle // in node; nil when closed
	pods   []*Pod
	links  int // number of pod links created so far, for their names
}

// NewNetwork makes node a router with these addresses, on the link "uplink0",
// and with default routes over that link. A packet to an address that does not
// exist is therefore routed, passes the node's output hook, and is lost. The
// first address of each family is the source of the node's own connections;
// without an address of a family the node only routes that family.
//
// The node must be a namespace that NewNamespace or Run created; NewNetwork
// returns an error for any other. The caller closes it, after the network.
func NewNetwork(node *Namespace, nodeAddrs ...netip.Addr) (*Network, error) {
	w, err := newNetwork(node, nodeAddrs)
	if err != nil {
		return nil, fmt.Errorf("make network: %w", err)
	}
	return w, nil
}

func newNetwork(node *Namespace, nodeAddrs []netip.Addr) (*Network, error) {
	if !node.made {
		return nil, errNotOurs
	}
	ipv6, err := node.hasIPv6()
	if err != nil {
		return nil, err
	}
	addrs, err := checkAddrs(nodeAddrs, ipv6)
	if err != nil {
		return nil, err
	}
	if err := node.set(parameters(nodeSysctls4, nodeSysctls6, ipv6)...); err != nil {
		return nil, err
	}
	if err := node.RaiseLoopback(); err != nil {
		return nil, err
	}
	routes, err := node.routing()
	if err != nil {
		return nil, err
	}
	w := &Network{node: node, addrs: addrs, ipv6: ipv6, routes: routes}
	if err := w.addUplink(); err != nil {
		routes.Close()
		return nil, err
	}
	return w, nil
}

// Node returns the namespace of the node.
func (w *Network) Node() *Namespace { return w.node }

// Close removes the pods, as RemovePod does, and the node's uplink. The node's
// namespace and its sysctls stay. Closing it twice is not an error.
func (w *Network) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.routes == nil {
		return nil
	}
	var errs []error
	for _, p := range w.pods {
		errs = append(errs, w.disconnect(p))
	}
	errs = append(errs, deleteLink(w.routes, uplink), w.nowhere.Close())
	w.routes.Close()
	w.routes, w.pods = nil, nil
	return errors.Join(errs...)
}

// addUplink adds the uplink; on an error there is none. It is a veth, which the
// pods need anyway, and not a dummy link, which not every kernel has. Without
// ARP and neighbour discovery the kernel sends every packet at once, to the
// sender's own hardware address (arp_constructor in net/ipv4/arp.c), and the
// far end drops it.
func (w *Network) addUplink() error {
	nowhere, err := NewNamespace()
	if err != nil {
		return err
	}
	node, err := w.linkTo(uplink, nowhere)
	if err != nil {
		return errors.Join(err, nowhere.Close())
	}
	if err := w.setUplink(node); err != nil {
		return errors.Join(err, deleteLink(w.routes, uplink), nowhere.Close())
	}
	w.nowhere = nowhere
	return nil
}

// linkTo adds a link to far and returns the node's end of it.
func (w *Network) linkTo(name string, far *Namespace) (*link, error) {
	if err := far.set(parameters(podSysctls4, podSysctls6, w.ipv6)...); err != nil {
		return nil, err
	}
	routes, err := far.routing()
	if err != nil {
		return nil, err
	}
	defer routes.Close()
	node, _, err := w.addLink(name, far, routes)
	return node, err
}

// setUplink gives the uplink the node's addresses and default routes.
func (w *Network) setUplink(up *link) error {
	if err := up.arpOff(); err != nil {
		return err
	}
	for _, addr := range w.addrs {
		if err := up.addHost(addr); err != nil {
			return err
		}
	}
	for _, f := range w.families() {
		route := &netlink.Route{Dst: ipNet(f.everywhere), Src: f.first(w.addrs).AsSlice()}
		if err := up.addRoute(route); err != nil {
			return err
		}
	}
	return nil
}

// families returns the address families that the kernel has.
func (w *Network) families() []family {
	if w.ipv6 {
		return []family{ipv4, ipv6}
	}
	return []family{ipv4}
}

// parameters returns the sysctls of the families that the kernel has.
func parameters(v4, v6 []sysctl, ipv6 bool) []sysctl {
	if ipv6 {
		return slices.Concat(v4, v6)
	}
	return v4
}

// checkAddrs returns the addresses, IPv4-mapped ones converted to IPv4, or an
// error if one of them cannot be the address of a node or pod.
func checkAddrs(addrs []netip.Addr, ipv6 bool) ([]netip.Addr, error) {
	checked := make([]netip.Addr, len(addrs))
	for i, addr := range addrs {
		addr = addr.Unmap()
		switch {
		case !addr.IsGlobalUnicast() || addr.Zone() != "":
			return nil, fmt.Errorf("address %s: not a global unicast address", addr)
		case addr.Is6() && !ipv6:
			return nil, fmt.Errorf("address %s: IPv6 is off in this kernel", addr)
		}
		checked[i] = addr
	}
	return checked, nil
}
