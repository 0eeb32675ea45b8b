//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// farLink is the name of a link's far end, in the pod.
const farLink = "eth0"

// mtu is the MTU of both ends of every link, in bytes.
const mtu = 1500

// link is a network link, seen through a netlink socket in its namespace.
type link struct {
	routing *netlink.Handle
	name    string
	index   int
	mac     net.HardwareAddr
}

// addLink creates a link from the node to far, in which routes is a netlink
// socket, and returns its two ends, up and ready. On an error there is no link.
// Add addresses and routes afterwards: IPv6 routes need a link that is up, and
// IPv4 routes are lost when it goes down.
func (w *Network) addLink(name string, far *Namespace, routes *netlink.Handle) (node, end *link, err error) {
	err = w.routes.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: name, MTU: mtu},
		PeerName:      farLink,
		PeerNamespace: netlink.NsFd(far.Fd()),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("add link %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, deleteLink(w.routes, name))
		}
	}()
	if node, err = findLink(w.routes, name); err != nil {
		return nil, nil, err
	}
	if end, err = findLink(routes, farLink); err != nil {
		return nil, nil, err
	}
	for _, step := range []func() error{end.up, node.up, end.ready, node.ready} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	return node, end, nil
}

// findLink returns the link with a name.
func findLink(routing *netlink.Handle, name string) (*link, error) {
	found, err := routing.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	attrs := found.Attrs()
	return &link{routing: routing, name: name, index: attrs.Index, mac: attrs.HardwareAddr}, nil
}

// deleteLink deletes the link with a name. A missing link is not an error.
func deleteLink(routing *netlink.Handle, name string) error {
	found, err := routing.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err == nil {
		err = routing.LinkDel(found)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// up sets the link administratively up.
func (l *link) up() error {
	err := l.routing.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: l.index}})
	if err != nil {
		return fmt.Errorf("set link %s up: %w", l.name, err)
	}
	return nil
}

// arpOff disables ARP and neighbour discovery on the link.
func (l *link) arpOff() error {
	err := l.routing.LinkSetARPOff(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: l.index}})
	if err != nil {
		return fmt.Errorf("set link %s arp off: %w", l.name, err)
	}
	return nil
}

// ready waits until packets can be sent over the link, a veth whose two ends
// are up. After the carrier comes on, the kernel attaches the link's queue from
// a work queue and drops every packet until then (net/core/link_watch.c).
// Linux >= 6.8 does that work before it answers a request for the link, so one
// request suffices; older kernels need several, for some microseconds.
func (l *link) ready() error {
	const limit = 10 * time.Second
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		now, err := l.routing.LinkByIndex(l.index)
		if err != nil {
			return fmt.Errorf("read link %s: %w", l.name, err)
		}
		if now.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return fmt.Errorf("link %s is not ready after %v", l.name, limit)
}

// addAddr gives the link an address that is usable at once, without duplicate
// address detection. The scope applies to IPv4; for IPv6 the kernel derives it
// from the address.
func (l *link) addAddr(prefix netip.Prefix, scope netlink.Scope) error {
	addr := &netlink.Addr{LinkIndex: l.index, IPNet: ipNet(prefix), Scope: int(scope)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := l.routing.AddrAdd(nil, addr); err != nil {
		return fmt.Errorf("add address %s dev %s: %w", prefix, l.name, err)
	}
	return nil
}

// addHost gives the link addr as a host address and makes the namespace accept
// packets to it.
//
// For IPv6 the kernel adds the local route later, from a work queue, even
// without duplicate address detection (addrconf_dad_start in
// net/ipv6/addrconf.c). addHost therefore adds a local route itself; its metric
// differs from the kernel's, so that the two do not collide.
func (l *link) addHost(addr netip.Addr) error {
	if err := l.addAddr(host(addr), netlink.SCOPE_UNIVERSE); err != nil || addr.Is4() {
		return err
	}
	return l.addRoute(&netlink.Route{Dst: ipNet(host(addr)), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL})
}

// addVia adds a route to prefix via next, which need not be in a subnet of the
// link (onlink). If source is valid, it is the preferred source of the
// namespace's own connections over the route.
func (l *link) addVia(prefix netip.Prefix, next, source netip.Addr) error {
	return l.addRoute(&netlink.Route{
		Dst:   ipNet(prefix),
		Gw:    next.AsSlice(),
		Flags: int(netlink.FLAG_ONLINK),
		Src:   source.AsSlice(),
	})
}

// addRoute adds a route over the link.
func (l *link) addRoute(route *netlink.Route) error {
	route.LinkIndex = l.index
	if err := l.routing.RouteAdd(route); err != nil {
		return fmt.Errorf("add route %s dev %s: %w", route.Dst, l.name, err)
	}
	return nil
}

// addNeighbour adds a permanent neighbour entry for addr at mac, so that no
// neighbour discovery is needed.
func (l *link) addNeighbour(addr netip.Addr, mac net.HardwareAddr) error {
	err := l.routing.NeighSet(&netlink.Neigh{
		LinkIndex:    l.index,
		State:        netlink.NUD_PERMANENT,
		IP:           addr.AsSlice(),
		HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s at %s dev %s: %w", addr, mac, l.name, err)
	}
	return nil
}

// host returns the prefix that contains only addr.
func host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func ipNet(prefix netip.Prefix) *net.IPNet {
	addr := prefix.Addr()
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(prefix.Bits(), addr.BitLen())}
}
