package render

import (
	"net/netip"
	"slices"
)

// Allowlist says which of the addresses that Services name a node serves: all, or those inside some ranges. The zero
// Allowlist has all.
type Allowlist struct {
	// Only says that Within counts; without a range in it nothing is served.
	Only   bool
	Within []netip.Prefix
}

// Has says whether an address is served.
func (a Allowlist) Has(addr netip.Addr) bool {
	return !a.Only || slices.ContainsFunc(a.Within, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// of returns those of the addresses that are served.
func (a Allowlist) of(addrs []netip.Addr) []netip.Addr {
	if !a.Only {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), func(addr netip.Addr) bool { return !a.Has(addr) })
}

func (a Allowlist) equal(b Allowlist) bool {
	return a.Only == b.Only && slices.Equal(a.Within, b.Within)
}

// RefusedAddresses are addresses of one kind that a Service names and the node is set not to serve. They are no
// frontends: packets to them pass as if no Service had them.
type DisallowedAddresses struct {
	Kind      Kind
	Addresses []netip.Addr
}

// Field is the path of the field that names them.
func (r DisallowedAddresses) Field() string {
	if r.Kind == LoadBalancer {
		return "status.loadBalancer.ingress"
	}
	return "spec.externalIPs"
}

// RefusedAddressesOf returns what a Service names in vain, by kind.
func DisallowedAddressesOf(n Node, s Service) []DisallowedAddresses {
	var all []DisallowedAddresses
	for _, of := range []struct {
		kind   Kind
		addrs  []netip.Addr
		served Allowlist
	}{{ExternalIP, s.ExternalIPs, n.ExternalIPs}, {LoadBalancer, s.LoadBalancerIPs, n.LoadBalancerIPs}} {
		refused := slices.DeleteFunc(slices.Clone(of.addrs), of.served.Has)
		if len(refused) > 0 {
			all = append(all, DisallowedAddresses{of.kind, refused})
		}
	}
	return all
}
