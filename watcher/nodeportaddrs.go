package watcher

import (
	"net/netip"
	"slices"
)

// nodePortAddresses determines the addresses at which node ports are served. By default they are the addresses of the
// Node object.
type nodePortAddresses struct {
	// primaryIP, if valid, replaces the Node's address of the same family.
	primaryIP netip.Addr
	// interfaces, if not nil, are used instead of the Node's addresses and of primaryIP, or with them if withNode is true.
	interfaces *interfaceAddresses
	withNode   bool
	// defaultRoutes, if not nil, provide the addresses if the source starts without a Node object.
	defaultRoutes *defaultRoutes
}

// withoutNode returns the addresses to use instead of the Node's until it has some.
func (n nodePortAddresses) withoutNode() ([]netip.Addr, error) {
	if n.defaultRoutes == nil || n.interfaces != nil && !n.withNode {
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

// choose returns the addresses at which node ports are served, sorted, for a node with the given primary addresses.
func (n nodePortAddresses) choose(primary []netip.Addr) []netip.Addr {
	switch {
	case n.interfaces == nil:
		return primary
	case !n.withNode:
		return n.interfaces.get()
	}
	addrs := slices.Concat(n.interfaces.get(), primary)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// changed returns a channel that holds a token after the addresses of the interfaces have changed. Without interfaces it
// is nil, which blocks forever.
func (n nodePortAddresses) changed() <-chan struct{} {
	if n.interfaces == nil {
		return nil
	}
	return n.interfaces.changed
}
