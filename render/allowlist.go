package render

import (
	"net/netip"
	"slices"
)

// Allowlist holds the addresses of Services that a node serves: all, or those in some ranges. The zero Allowlist holds all.
type Allowlist struct {
	// Only: the list holds the addresses in the ranges of Within and no others.
	Only   bool
	Within []netip.Prefix
}

// Has reports whether the list holds an address.
func (a Allowlist) Has(addr netip.Addr) bool {
	return !a.Only || slices.ContainsFunc(a.Within, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// of returns the addresses that the list holds.
func (a Allowlist) of(addrs []netip.Addr) []netip.Addr {
	if !a.Only {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), func(addr netip.Addr) bool { return !a.Has(addr) })
}

func (a Allowlist) equal(b Allowlist) bool {
	return a.Only == b.Only && slices.Equal(a.Within, b.Within)
}

// DisallowedAddresses are addresses of one kind that a Service has and the configuration of the node disallows. They are not
// frontends: the tables ignore packets to them.
type DisallowedAddresses struct {
	Kind      Kind
	Addresses []netip.Addr
}

// Field returns the path of the field that contains them.
func (d DisallowedAddresses) Field() string {
	if d.Kind == LoadBalancer {
		return "status.loadBalancer.ingress"
	}
	return "spec.externalIPs"
}

// DisallowedAddressesOf returns the disallowed addresses of a Service, by kind.
func DisallowedAddressesOf(n Node, s Service) []DisallowedAddresses {
	var all []DisallowedAddresses
	for _, of := range []struct {
		kind    Kind
		addrs   []netip.Addr
		allowed Allowlist
	}{{ExternalIP, s.ExternalIPs, n.ExternalIPs}, {LoadBalancer, s.LoadBalancerIPs, n.LoadBalancerIPs}} {
		disallowed := slices.DeleteFunc(slices.Clone(of.addrs), of.allowed.Has)
		if len(disallowed) > 0 {
			all = append(all, DisallowedAddresses{of.kind, disallowed})
		}
	}
	return all
}
