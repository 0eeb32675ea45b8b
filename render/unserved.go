package render

import (
	"net/netip"
	"slices"

	"nfproxy/nft"
)

// UnservedPorts is what happens to packets to ports of external IPs and load balancer addresses that no Service has.
type UnservedPorts uint8

const (
	// PassUnserved lets the packets pass, like packets to any other address. If the address is routed to this node, they go back to
	// where they came from.
	PassUnserved UnservedPorts = iota
	// RefuseUnserved answers with an error.
	RefuseUnserved
	// DropUnserved drops the packets without an answer.
	DropUnserved
)

// String returns the value of the flag.
func (u UnservedPorts) String() string { return [...]string{"pass", "refuse", "drop"}[u] }

// unserved returns the action for packets to unserved ports that do not pass.
func (s *Schema) unserved(u UnservedPorts) nft.Action {
	if u == DropUnserved {
		return nft.Verdict{Kind: nft.Drop}
	}
	return s.refuse()
}

// addAddresses adds the addresses of the Service to the sets about other packets than those to its ports.
func (b *serviceBuilder) addAddresses(at FrontendAddresses) {
	for s, addr := range addressElements(b.node, b.service, at) {
		b.add(s, nft.Element{Key: nft.Addr(addr)})
	}
}

// addressElements yields the sets that hold addresses of Services, with those of one Service: its external IPs and load balancer
// addresses if the node decides about their unserved ports, and all addresses that answer pings. It can yield an address twice. The
// node's primary addresses are its own, even if no interface has them.
func addressElements(n Node, s Service, at FrontendAddresses) func(func(*nft.Set, netip.Addr) bool) {
	return func(yield func(*nft.Set, netip.Addr) bool) {
		external := slices.Concat(at.external, at.loadBalancer)
		if n.UnservedPorts != PassUnserved {
			for _, addr := range external {
				if !slices.Contains(n.IPs, addr) && !yield(n.Instance.SchemaOf(Family(addr)).ExternalAddresses, addr) {
					return
				}
			}
		}
		if !n.AnswerPing {
			return
		}
		answering := answeringFamilies(n, s)
		for _, addr := range slices.Concat(at.cluster, external) {
			if answering.Has(Family(addr)) && !slices.Contains(n.IPs, addr) && !yield(n.Instance.SchemaOf(Family(addr)).Ping, addr) {
				return
			}
		}
	}
}

// DecidesAboutPorts reports whether the node decides about the unserved ports of an address because a Service has it, unless the
// address is bound on the node.
func (n Node) DecidesAboutPorts(s Service, addr netip.Addr) bool {
	for set, a := range addressElements(n, s, FrontendAddressesOf(n, s)) {
		if a == addr && set == n.Instance.SchemaOf(Family(addr)).ExternalAddresses {
			return true
		}
	}
	return false
}

// answeringFamilies returns the families in which a port of a Service has a usable endpoint on any node.
func answeringFamilies(n Node, s Service) Families {
	var f Families
	for _, p := range s.Ports {
		for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
			if !f.Has(family) && len(Select(n, p, family).Cluster) > 0 {
				*f.Of(family) = true
			}
		}
	}
	return f
}

// addressCost returns the number of elements that addAddresses adds.
func addressCost(n Node, s Service, at FrontendAddresses) int {
	counted := make(map[sharedKey]bool)
	for set, addr := range addressElements(n, s, at) {
		counted[sharedKey{set, nft.Addr(addr)}] = true
	}
	return len(counted)
}
