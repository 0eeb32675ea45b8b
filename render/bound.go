package render

import (
	"cmp"
	"net/netip"
	"slices"

	"nfproxy/nft"
)

// DefaultMaxServiceElements is the default of Node.MaxServiceElements. A frontend with MaxEndpoints endpoints is within it.
const DefaultMaxServiceElements = 100_000

// affinityCost is what the chains and maps of one port with session affinity cost in one family, in elements. There are about ten,
// whatever the number of frontends and endpoints, and each takes as much memory as about ten elements.
const affinityCost = 100

// Excess is what a Service loses because it costs more than Node.MaxServiceElements, or all Services more than Node.MaxElements.
type Excess uint8

const (
	// NoExcess: the Service costs no more than one Service may.
	NoExcess Excess = iota
	// WithoutAddresses: the external IPs and the load balancer addresses are not served. Cluster IPs and node ports are.
	WithoutAddresses
	// WithoutPorts: nothing is served. The cluster IPs refuse connections, as they do to a port that no Service has.
	WithoutPorts
	// WithoutRoom: nothing is served, because all Services together cost too much. The cluster IPs refuse connections.
	WithoutRoom
)

// ServesNothing reports whether only the cluster IPs are left, which refuse connections.
func (e Excess) ServesNothing() bool { return e == WithoutPorts || e == WithoutRoom }

// String describes the excess for users.
func (e Excess) String() string {
	switch e {
	case WithoutAddresses:
		return "its external IPs and load balancer addresses are not served; its cluster IPs and node ports are"
	case WithoutPorts:
		return "nothing of it is served; its cluster IPs refuse connections"
	case WithoutRoom:
		return "nothing of it is served, because all Services together need too many elements; its cluster IPs refuse connections"
	}
	return "all of it is served"
}

// maxServiceElements returns the bound that applies on the node.
func (n Node) maxServiceElements() int {
	return int(cmp.Or(n.MaxServiceElements, DefaultMaxServiceElements))
}

// Bound returns the part of a Service that the node serves: all of it if it costs at most Node.MaxServiceElements; otherwise
// what is left without external IPs and load balancer addresses, of which a user can write any number into a Service; and if
// that costs too much as well, only the cluster IPs. The result depends on nothing but the Node and the Service. Bound builds no
// element, and its own cost is bounded too.
//
// What is left has no health check node port if the Service has load balancer addresses: a load balancer must not send this
// node connections to addresses that it does not serve.
func Bound(n Node, s Service) Service {
	if withinBound(n, s) {
		return s
	}
	if len(s.ExternalIPs)+len(s.LoadBalancerIPs) > 0 {
		less := s
		less.Excess, less.Unserved = WithoutAddresses, slices.Concat(s.ExternalIPs, s.LoadBalancerIPs)
		less.ExternalIPs, less.LoadBalancerIPs, less.SourceRanges = nil, nil, nil
		if len(s.LoadBalancerIPs) > 0 {
			less.HealthCheckNodePort = 0
		}
		if withinBound(n, less) {
			return less
		}
	}
	return Unported(s)
}

// EndpointsWithinBound reports whether the node may join a Service with this number of endpoints, those of all ports together.
// Each may become an element.
func EndpointsWithinBound(n Node, endpoints int) bool { return endpoints <= n.maxServiceElements() }

// Unported returns what is left of a Service with the excess WithoutPorts.
func Unported(s Service) Service {
	s.Unserved = slices.Concat(s.ExternalIPs, s.LoadBalancerIPs)
	s.Excess, s.Ports, s.HealthCheckNodePort = WithoutPorts, nil, 0
	s.ExternalIPs, s.LoadBalancerIPs, s.SourceRanges = nil, nil, nil
	return s
}

func withinBound(n Node, s Service) bool {
	limit := n.maxServiceElements()
	return maxCost(n, s) <= limit || Cost(n, s, limit) <= limit
}

// maxCost returns an upper bound of the cost of a Service. It takes no memory.
func maxCost(n Node, s Service) int {
	restricted := len(s.LoadBalancerIPs) * (1 + len(s.SourceRanges) + len(s.LoadBalancerIPs)) // elements for source ranges
	addresses := len(s.ClusterIPs) + len(s.ExternalIPs) + len(s.LoadBalancerIPs)
	cost := len(s.ClusterIPs) + s.Limits.cost()
	if n.UnservedPorts != PassUnserved {
		cost += addresses
	}
	if n.AnswerPing {
		cost += addresses
	}
	for _, p := range s.Ports {
		frontends := addresses
		if p.NodePort != 0 {
			frontends += len(n.Addresses)
		}
		// A frontend has at most five elements, those for limits, and two for each slot, and an endpoint of this node has one more.
		cost += frontends*(5+s.Limits.limitElements()+2*slotLimit(n, s, p.Endpoints)) + restricted + len(p.Endpoints)
		if s.Affinity > 0 {
			cost += 2 * affinityCost
		}
	}
	return cost
}

// Cost returns what a Service costs on a node: the number of elements that RulesOf builds, with slow start at most, affinityCost
// for each port and family with session affinity, and clientLimitCost for each family with a limit for each client. It builds none of
// them. It counts no further than it needs to return more than limit, so that it takes time and memory for limit elements at most.
func Cost(n Node, s Service, limit int) int {
	c := costCounter{node: n, service: s, taken: make(map[Frontend]bool), hairpins: make(map[netip.Addr]bool), admitted: admittedByFamily(n, s)}
	clusterIPs := slices.SortedFunc(slices.Values(n.supported(s.ClusterIPs)), netip.Addr.Compare)
	c.cost = len(slices.Compact(clusterIPs)) + s.Limits.cost()
	at := FrontendAddressesOf(n, s)
	c.cost += addressCost(n, s, at)
	for _, p := range s.Ports {
		c.families = make(map[nft.Family]portCost)
		for kind, addr := range p.Frontends(at) {
			if c.cost > limit {
				return c.cost
			}
			c.frontend(kind, p, Frontend{addr, p.Protocol})
		}
	}
	return c.cost
}

// costCounter counts what serviceBuilder builds.
type costCounter struct {
	node     Node
	service  Service
	admitted map[nft.Family][]netip.Prefix
	cost     int
	taken    map[Frontend]bool
	hairpins map[netip.Addr]bool
	families map[nft.Family]portCost // of the current port
}

// portCost holds the numbers of elements that frontends of one port, in one family, need for a kind.
type portCost struct {
	cluster, other int
}

func (c *costCounter) frontend(kind Kind, p Port, f Frontend) {
	if c.taken[f] {
		return
	}
	c.taken[f] = true
	family := Family(f.Addr())
	of, ok := c.families[family]
	if !ok {
		of = c.port(p, family)
		c.families[family] = of
	}
	switch {
	case kind == ClusterIP:
		c.cost += of.cluster
	case kind == LoadBalancer && c.admitted[family] != nil:
		c.cost += of.other + len(c.admitted[family]) + 1
	default:
		c.cost += of.other
	}
}

// port counts what a port has once in a family, and returns what each of its frontends has.
func (c *costCounter) port(p Port, family nft.Family) portCost {
	selected := Select(c.node, p, family)
	for _, endpoints := range [][]Endpoint{selected.Cluster, selected.Local} {
		for _, e := range endpoints {
			if e.isLocal(c.node) && !c.hairpins[e.Addr()] {
				c.hairpins[e.Addr()] = true
				c.cost++
			}
		}
	}
	if c.service.Affinity > 0 {
		c.cost += affinityCost
	}
	return portCost{cluster: c.elements(ClusterIP, selected), other: c.elements(ExternalIP, selected)}
}

// elements returns the number of elements of a frontend, without those for source ranges. It mirrors frontendBuilder.verdict.
func (c *costCounter) elements(kind Kind, selected Selection) int {
	const inServices = 1
	limits := c.service.Limits.limitElements()
	inConnections := 1
	switch action, _ := RouteOf(kind, c.service, selected); action {
	case Refuse:
		if kind == ClusterIP {
			inConnections = 0
		}
		return inServices + inConnections
	case Drop:
		return inServices
	case Split:
		fromOutside := min(len(selected.Local), 1)
		return inServices + limits + c.masquerade(kind) + 1 + c.slots(selected.Cluster) + fromOutside + c.slots(selected.Local)
	case ToLocal:
		return inServices + limits + c.masquerade(kind) + c.slots(selected.Local)
	}
	return inServices + limits + c.masquerade(kind) + c.slots(selected.Cluster)
}

// slots returns the number of slots that endpoints get at a frontend: with slow start, the most that they get while some of them grow.
func (c *costCounter) slots(endpoints []Endpoint) int {
	switch {
	case c.node.hashes(c.service, endpoints):
		return c.node.maglevSize()
	case c.service.SlowStart > 0 && len(endpoints) > 1:
		return min(slowStartSteps*slotCount(endpoints), maxSlots(len(endpoints)))
	}
	return slotCount(endpoints)
}

// masquerade returns the number of elements that frontendBuilder.masquerade adds.
func (c *costCounter) masquerade(kind Kind) int {
	switch {
	case c.service.Affinity > 0:
		return 2
	case kind == ClusterIP:
		return 0
	}
	return 1
}
