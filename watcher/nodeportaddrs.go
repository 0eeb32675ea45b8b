package watcher

import (
	"net/netip"
	"slices"

	"nfproxy/nft"
	"nfproxy/render"
)

// nodePortAddresses determines the addresses at which node ports are served, for each family separately. By default they are the
// address of the Node object or, if it has none, all local addresses.
type nodePortAddresses struct {
	// primaryIP, if valid, replaces the Node's address of the same family.
	primaryIP netip.Addr
	// ranges select addresses of interfaces, which are used in addition to the Node's address, or instead of it if rangesOnly is
	// true. A range of all addresses of a family means all local addresses.
	ranges     []netip.Prefix
	rangesOnly bool
	// interfaces, if not nil, provide the addresses besides the Node's. Without them there are no others.
	interfaces *interfaceAddresses
	// defaultRoutes, if not nil, provide the addresses if the source starts without a Node object.
	defaultRoutes *defaultRoutes
}

// withoutNode returns the addresses to use instead of the Node's until it has some.
func (n nodePortAddresses) withoutNode() ([]netip.Addr, error) {
	if n.defaultRoutes == nil || n.rangesOnly {
		return nil, nil
	}
	return n.defaultRoutes.addresses()
}

// primary returns the node's primary addresses: those of the Node object, in which primaryIP replaces the one of its family. A
// loopback address only removes it: node ports are not served at loopback addresses.
func (n nodePortAddresses) primary(ofNode []netip.Addr) []netip.Addr {
	if !n.primaryIP.IsValid() {
		return ofNode
	}
	addrs := slices.DeleteFunc(slices.Clone(ofNode), func(a netip.Addr) bool { return a.Is4() == n.primaryIP.Is4() })
	if !n.primaryIP.IsLoopback() {
		addrs = append(addrs, n.primaryIP)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// choose returns the addresses at which node ports are served, sorted, for a node with the given primary addresses, and the
// families in which these are all local addresses. services is the number of Services with node ports of each family. If there
// is none, choose omits the local addresses of the family: they can change with each Pod that starts.
func (n nodePortAddresses) choose(primary []netip.Addr, services map[nft.Family]int) (addrs []netip.Addr, all render.Families) {
	var local localAddresses
	if n.interfaces != nil {
		local = n.interfaces.get()
	}
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		from := n.selected(primary, local.ofInterfaces)
		if n.everywhere(primary, family) {
			*all.Of(family) = true
			if from = local.all; services[family] == 0 {
				continue
			}
		}
		for _, addr := range from {
			if render.Family(addr) == family {
				addrs = append(addrs, addr)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), all
}

// everywhere reports whether node ports of a family are served at all local addresses: if a range says so, or nothing else
// selects an address. kube-proxy does the same (NewNodePortAddresses in pkg/proxy/util/nodeport_addresses.go).
func (n nodePortAddresses) everywhere(primary []netip.Addr, family nft.Family) bool {
	if n.interfaces == nil {
		return false
	}
	ranged := false
	for _, r := range n.ranges {
		if render.Family(r.Addr()) != family {
			continue
		}
		if r.Bits() == 0 {
			return true
		}
		ranged = true
	}
	_, hasPrimary := ofFamily(primary, family == nft.IPv4)
	return !ranged && (n.rangesOnly || !hasPrimary)
}

// selected returns the primary addresses, unless only ranges count, and the addresses of interfaces that are inside the ranges.
func (n nodePortAddresses) selected(primary, ofInterfaces []netip.Addr) []netip.Addr {
	var addrs []netip.Addr
	if !n.rangesOnly {
		addrs = slices.Clone(primary)
	}
	for _, addr := range ofInterfaces {
		if slices.ContainsFunc(n.ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// changed returns a channel that holds a token after the addresses of the machine have changed. Without interfaces it is nil,
// which blocks forever.
func (n nodePortAddresses) changed() <-chan struct{} {
	if n.interfaces == nil {
		return nil
	}
	return n.interfaces.changed
}
