package render

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"nfproxy/nft"
)

// Node holds the facts about this node that the rules depend on.
type Node struct {
	// Instance is the nfproxy that serves Services on this node.
	Instance Instance
	// Name is the name of the Node object. Endpoints on this node are local.
	Name string
	// ClusterCIDRs contain the addresses of Pods, at most one range per family. Connections from other addresses to a cluster IP
	// are masqueraded. In a family without a range only hairpin connections are.
	ClusterCIDRs []netip.Prefix
	// NodeCIDR requests that the source copies the podCIDRs of the Node object to ClusterCIDRs.
	NodeCIDR bool
	// PodInterface, if not empty, identifies packets of Pods by their input interface, and ClusterCIDRs are ignored. It is the
	// name of the interface, or a prefix of names followed by *.
	PodInterface string
	// MasqueradeAll masquerades all connections to cluster IPs.
	MasqueradeAll bool
	// Zone is the node's topology.kubernetes.io/zone, empty if it has none.
	Zone string
	// Addresses are the node's addresses at which node ports are served: at most one per family from the Node object, any
	// number from interfaces and routes.
	Addresses []netip.Addr
	// AllAddresses are the families in which node ports are served at all local addresses. Addresses contains these addresses if
	// a Service has node ports of the family.
	AllAddresses Families
	// Loopback are the loopback addresses at which TCP node ports are served by listeners, at most one per family. No rule
	// depends on them.
	Loopback []netip.Addr
	// IPs are the node's primary addresses, at most one per family, whatever Addresses are. Source ranges that contain one of
	// them admit the node.
	IPs []netip.Addr
	// ServiceCIDRs are the ranges of cluster IPs. Packets to an address in them that no Service has are dropped. An Instance with a
	// name has none: the other addresses belong to other proxies.
	ServiceCIDRs []netip.Prefix
	// ExternalIPs and LoadBalancerIPs are the allowed addresses of these kinds.
	ExternalIPs, LoadBalancerIPs Allowlist
	// UnservedPorts is what happens to packets to ports of external IPs and load balancer addresses that no Service has.
	UnservedPorts UnservedPorts
	// AnswerPing: the node answers pings to the cluster IPs, external IPs and load balancer addresses of Services that have a usable
	// endpoint of the address family.
	AnswerPing bool
	// Counters selects the elements that count connections.
	Counters Counters
	// IPv4Only: the machine does not support IPv6, and there is no IPv6 table.
	IPv4Only bool
	// AffinityClients is the number of clients that a Service port with session affinity remembers per family; 0 means
	// DefaultAffinityClients. The connections of further clients are balanced independently of each other.
	AffinityClients uint32
	// MaglevSize is the number of slots of a frontend with consistent hashing, a prime; 0 means DefaultMaglevSize. It must be the same
	// on all nodes.
	MaglevSize uint32
	// MaxServiceElements is what one Service may cost in elements; 0 means DefaultMaxServiceElements. Bound applies it.
	MaxServiceElements uint32
	// MaxElements is what all Services together may cost in elements; 0 means DefaultMaxElements. Total applies it.
	MaxElements uint32
}

// Equal reports whether two Nodes are equal.
func (n Node) Equal(m Node) bool {
	return n.Instance.Equal(m.Instance) && n.Name == m.Name && n.MasqueradeAll == m.MasqueradeAll && n.PodInterface == m.PodInterface && n.NodeCIDR == m.NodeCIDR && n.Zone == m.Zone &&
		n.AllAddresses == m.AllAddresses && n.AffinityClients == m.AffinityClients && n.MaglevSize == m.MaglevSize && n.MaxServiceElements == m.MaxServiceElements && n.MaxElements == m.MaxElements && n.IPv4Only == m.IPv4Only && n.Counters == m.Counters &&
		n.UnservedPorts == m.UnservedPorts && n.AnswerPing == m.AnswerPing &&
		n.ExternalIPs.equal(m.ExternalIPs) && n.LoadBalancerIPs.equal(m.LoadBalancerIPs) &&
		slices.Equal(n.Addresses, m.Addresses) && slices.Equal(n.Loopback, m.Loopback) && slices.Equal(n.IPs, m.IPs) && slices.Equal(n.ClusterCIDRs, m.ClusterCIDRs) && slices.Equal(n.ServiceCIDRs, m.ServiceCIDRs)
}

// EqualExceptNodePorts reports whether two Nodes are equal apart from the addresses of node ports. Then the rules of Services
// without node ports are equal too.
func (n Node) EqualExceptNodePorts(m Node) bool {
	n.Addresses, n.AllAddresses = m.Addresses, m.AllAddresses
	return n.Equal(m)
}

// Families is a set of address families.
type Families struct {
	IPv4, IPv6 bool
}

// Of returns a pointer to the member that reports whether the set contains a family.
func (f *Families) Of(family nft.Family) *bool {
	if family == nft.IPv6 {
		return &f.IPv6
	}
	return &f.IPv4
}

// Has reports whether the set contains a family.
func (f Families) Has(family nft.Family) bool { return *f.Of(family) }

// Counters selects the elements that count connections.
type Counters uint8

const (
	CountServices  Counters = iota // the elements of frontends
	CountEndpoints                 // those and the elements of endpoints
	CountNothing
)

// supported returns the addresses of the families that the machine supports.
func (n Node) supported(addrs []netip.Addr) []netip.Addr {
	if !n.IPv4Only {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), netip.Addr.Is6)
}

// ServiceName names a Service.
type ServiceName struct {
	Namespace, Name string
}

// String returns namespace/name.
func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then by name.
func (n ServiceName) Compare(m ServiceName) int {
	return cmp.Or(cmp.Compare(n.Namespace, m.Namespace), cmp.Compare(n.Name, m.Name))
}

// Service is one Service joined with its EndpointSlices: everything its rules depend on besides the Node. The order of its Go
// slices has no meaning.
type Service struct {
	ServiceName
	// Created is the creationTimestamp. Of two Services with equal claims to a frontend the older one owns it.
	Created time.Time
	// ClusterIPs has at most one address per family.
	ClusterIPs []netip.Addr
	// ExternalIPs and LoadBalancerIPs are the other addresses of its ports.
	ExternalIPs, LoadBalancerIPs []netip.Addr
	// SourceRanges, if not empty, are the only sources that reach LoadBalancerIPs.
	SourceRanges []netip.Prefix
	// Affinity is how long a client keeps its endpoint after its last connection; 0 without session affinity.
	Affinity time.Duration
	// SlowStart is how long the weight of a newly ready endpoint grows, 0 if it has its whole weight at once: see type SlowStart.
	SlowStart time.Duration
	// Hashing is what the choice of an endpoint follows from, unless session affinity remembers the client. By default the choice is
	// random.
	Hashing Hashing
	// Limits are the limits on new connections.
	Limits Limits
	// InternalLocal and ExternalLocal: the internal or external traffic policy is Local. The internal policy applies to cluster
	// IPs, the external one to all other addresses and node ports.
	InternalLocal, ExternalLocal bool
	// HealthCheckNodePort is the port at which load balancers check whether a node has endpoints, if the external policy is
	// Local; 0 for none.
	HealthCheckNodePort uint16
	Ports               []Port
	// Excess is what Bound or Total removed from the Service, and Unserved are the addresses among it. No rule depends on them.
	Excess   Excess
	Unserved []netip.Addr
	// Ignored are the annotations of the Service and its EndpointSlices that the source has found invalid. No rule depends on them.
	Ignored []IgnoredAnnotation
}

// Port is one port of a Service with the endpoints behind it, of both families.
type Port struct {
	Name     string
	Protocol nft.Protocol
	Port     uint16
	// NodePort is the port at the addresses of nodes, 0 for none.
	NodePort  uint16
	Endpoints []Endpoint
}

// HasNodePorts reports whether a port of the Service has a node port.
func (s Service) HasNodePorts() bool {
	return slices.ContainsFunc(s.Ports, func(p Port) bool { return p.NodePort != 0 })
}

// Families returns the families in which a Service is reached: those of its cluster IPs, as in kube-proxy, which has one proxy per
// family (serviceToServiceMap in pkg/proxy/servicechangetracker.go), or both if none of these is valid.
func (s Service) Families() Families {
	f := Families{IPv4: len(s.ClusterIPs) == 0, IPv6: len(s.ClusterIPs) == 0}
	for _, addr := range s.ClusterIPs {
		*f.Of(Family(addr)) = true
	}
	return f
}

// Endpoint is one address and port that serves a Service port.
type Endpoint struct {
	netip.AddrPort
	// Node is the name of the node that it runs on, empty if unknown.
	Node string
	// Ready, Serving and Terminating are the conditions in the EndpointSlice.
	Ready, Serving, Terminating bool
	// Weight is the share of new connections that the endpoint gets, in relation to the other endpoints of a frontend, at most
	// MaxWeight; 0 stands for the default, 1.
	Weight uint16
	// Drained: the endpoint gets no new connections, as with weight 0 in the EndpointSlice. Established ones continue.
	Drained bool
	// Hints are the hints in the EndpointSlice, nil for none.
	Hints *Hints
}

// Hints are the zones and nodes that should use an endpoint (KEP-2433, KEP-3015).
type Hints struct {
	Zones, Nodes []string
}

// Update holds what changed in a source since its last Update. Its lists are shared and must not be modified.
type Update struct {
	// Node is the current Node. If it differs from that of the last Update, Services holds all Services, or those with node ports
	// if only the addresses of node ports differ.
	Node Node
	// Services holds the complete Services that were added or changed, each as Bound and Total return it.
	Services []Service
	// Removed holds the names of the Services that were removed.
	Removed []ServiceName
	// ServiceChanges is the number of Services that were added, removed or changed apart from their endpoints, EndpointChanges that of
	// the Services whose endpoints changed. Neither counts a Service that only a change of the Node affects.
	ServiceChanges, EndpointChanges int
	// NotEligible: load balancers should not send new connections to this node, because its Node object is tainted or being
	// deleted, or has never existed although it is required (KEP-3836).
	NotEligible bool
	// Seen is when the first of the changes reached this machine. Triggered are the times of the events that caused them, as
	// annotated in EndpointSlices. Neither affects the tables.
	Seen      time.Time
	Triggered []time.Time
}
