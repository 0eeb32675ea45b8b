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
	// interfaces, if not nil, are used instead of the Node's addresses and of primaryIP.
	interfaces *interfaceAddresses
	// defaultRoutes, if not nil, provide the addresses if the source starts without a Node object.
	defaultRoutes *defaultRoutes
}

// withoutNode returns the addresses to use instead of the Node's until it has some.
func (n nodePortAddresses) withoutNode() ([]netip.Addr, error) {
	if n.interfaces != nil || n.defaultRoutes == nil {
		return nil, nil
	}
	return n.defaultRoutes.addresses()
}

// choose returns the addresses, sorted, for a Node object with the given addresses.
func (n nodePortAddresses) choose(ofNode []netip.Addr) []netip.Addr {
	switch {
	case n.interfaces != nil:
		return n.interfaces.get()
	case n.primaryIP.IsValid():
		addrs := slices.DeleteFunc(slices.Clone(ofNode), func(a netip.Addr) bool { return a.Is4() == n.primaryIP.Is4() })
		addrs = append(addrs, n.primaryIP)
		slices.SortFunc(addrs, netip.Addr.Compare)
		return addrs
	}
	return ofNode
}

// changed returns a channel that holds a token after the addresses of the interfaces have changed. Without interfaces it
// is nil, which blocks forever.
func (n nodePortAddresses) changed() <-chan struct{} {
	if n.interfaces == nil {
		return nil
	}
	return n.interfaces.changed
}
