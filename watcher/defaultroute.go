package watcher

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// defaultRoutes reads the default routes of a network namespace. Their addresses serve node ports when the source starts and
// this machine has no Node object; the kubelet takes the address of a Node from its default routes, too, unless it is told
// another one (ChooseHostInterface in k8s.io/apimachinery/pkg/util/net).
type defaultRoutes struct {
	// routing belongs to the network namespace in which it was opened.
	routing  *netlink.Handle
	families []int
}

// openDefaultRoutes returns the default routes of the calling thread's network namespace.
func openDefaultRoutes(ipv4Only bool) (*defaultRoutes, error) {
	routing, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("list default routes: %w", err)
	}
	d := &defaultRoutes{routing: routing, families: []int{netlink.FAMILY_V4}}
	if !ipv4Only {
		d.families = append(d.families, netlink.FAMILY_V6)
	}
	return d, nil
}

func (d *defaultRoutes) close() error {
	d.routing.Close()
	return nil
}

// addresses returns at most one address per family, IPv4 first: that of the default route with the lowest metric whose
// interface has a usable one. If there is an error, the addresses of the other family are returned as well.
func (d *defaultRoutes) addresses() (addrs []netip.Addr, err error) {
	for _, family := range d.families {
		addr, ok, familyErr := d.address(family)
		if ok {
			addrs = append(addrs, addr)
		}
		err = errors.Join(err, familyErr)
	}
	return addrs, err
}

func (d *defaultRoutes) address(family int) (addr netip.Addr, ok bool, err error) {
	routes, err := complete(func() ([]netlink.Route, error) {
		return d.routing.RouteListFiltered(family, &netlink.Route{Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return addr, false, fmt.Errorf("list default routes: %w", err)
	}
	listed, err := complete(func() ([]netlink.Addr, error) { return d.routing.AddrList(nil, family) })
	if err != nil {
		return addr, false, fmt.Errorf("list interface addresses: %w", err)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, route := range routes {
		if addr, ok := sourceOf(route, listed); ok {
			return addr, true, nil
		}
	}
	return addr, false, nil
}

// sourceOf returns the source address that a route names, else the first usable address of its interface.
func sourceOf(route netlink.Route, listed []netlink.Addr) (netip.Addr, bool) {
	if addr, ok := netip.AddrFromSlice(route.Src); ok && servable(addr.Unmap()) {
		return addr.Unmap(), true
	}
	links := []int{route.LinkIndex}
	for _, hop := range route.MultiPath {
		links = append(links, hop.LinkIndex)
	}
	// For IPv4 the flag of temporary addresses means secondary ones.
	const unusable = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	for _, l := range listed {
		if l.IPNet == nil || !slices.Contains(links, l.LinkIndex) || l.Flags&unusable != 0 {
			continue
		}
		if addr, ok := netip.AddrFromSlice(l.IP); ok && servable(addr.Unmap()) {
			return addr.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// servable reports whether an address can be the node's address.
func servable(addr netip.Addr) bool {
	return !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && !addr.IsMulticast() && !addr.IsUnspecified()
}

// complete returns the result of a list request. It repeats the request if the list changes while the kernel sends it.
func complete[T any](list func() ([]T, error)) ([]T, error) {
	listed, err := list()
	for attempt := 1; errors.Is(err, netlink.ErrDumpInterrupted) && attempt < readAttempts; attempt++ {
		listed, err = list()
	}
	return listed, err
}
