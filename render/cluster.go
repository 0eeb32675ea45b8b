package render

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"nfproxy/nft"
)

// Node is this machine as the rules need it.
type Node struct {
	// Name is the node's name in the API: an endpoint of that node is local.
	Name string
	// ClusterCIDRs hold the addresses of pods, one per family at most. Connections from elsewhere to a cluster
	// IP are masqueraded. A family without one masquerades hairpin connections alone.
	ClusterCIDRs []netip.Prefix
	// NodeCIDR asks the source to put the Node object's podCIDRs into ClusterCIDRs.
	NodeCIDR bool
	// PodInterface, if not empty, tells pods by the interface their packets come in by, of that name or, with a * at the
	// end, of that prefix. ClusterCIDRs have no meaning then.
	PodInterface string
	// MasqueradeAll masquerades all connections to cluster IPs.
	MasqueradeAll bool
	// Zone is the node's topology.kubernetes.io/zone, empty if it has none.
	Zone string
	// Addresses are the node's own, at most one per family from its Node object, any number from its interfaces: NodePorts
	// are served there.
	Addresses []netip.Addr
	// ServiceCIDRs are the ranges cluster IPs come from. What no Service has of them is dropped.
	ServiceCIDRs []netip.Prefix
	// ExternalIPs and LoadBalancerIPs say which addresses of these kinds are served.
	ExternalIPs, LoadBalancerIPs Allowlist
	// Counters says whose connections are counted.
	Counters Counters
	// IPv4Only says that this machine has no IPv6: there are no rules for it then.
	IPv4Only bool
	// AffinityClients is how many clients a Service port with session affinity remembers per family; 0 for
	// DefaultAffinityClients. Further ones are balanced anew each time; nobody is refused.
	AffinityClients uint32
}

// Equal says whether two nodes have the same facts.
func (n Node) Equal(m Node) bool {
	return n.Name == m.Name && n.MasqueradeAll == m.MasqueradeAll && n.PodInterface == m.PodInterface && n.NodeCIDR == m.NodeCIDR && n.Zone == m.Zone &&
		n.AffinityClients == m.AffinityClients && n.IPv4Only == m.IPv4Only && n.Counters == m.Counters &&
		n.ExternalIPs.equal(m.ExternalIPs) && n.LoadBalancerIPs.equal(m.LoadBalancerIPs) &&
		slices.Equal(n.Addresses, m.Addresses) && slices.Equal(n.ClusterCIDRs, m.ClusterCIDRs) && slices.Equal(n.ServiceCIDRs, m.ServiceCIDRs)
}

// Counters says whose connections elements count.
type Counters uint8

// Frontends count, or their endpoints as well, or nobody.
const (
	CountServices Counters = iota
	CountEndpoints
	CountNothing
)

// spoken returns the addresses of families that the machine has.
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

// Service is one Service joined with its EndpointSlices: all that its rules depend on besides the Node.
// The order of its slices means nothing.
type Service struct {
	ServiceName
	// Created is the Service's creationTimestamp; of two Services that claim one frontend the older keeps it.
	Created time.Time
	// ClusterIPs has at most one address per family.
	ClusterIPs []netip.Addr
	// ExternalIPs and LoadBalancerIPs are other addresses its ports are served at.
	ExternalIPs, LoadBalancerIPs []netip.Addr
	// SourceRanges, if there are any, are the sources that reach LoadBalancerIPs.
	SourceRanges []netip.Prefix
	// Affinity is how long a client stays with the endpoint it was sent to, from its last connection on; 0: not at all.
	Affinity time.Duration
	// InternalLocal and ExternalLocal are the internal and external traffic policy Local: only endpoints of this node
	// serve cluster IPs, or all other addresses and NodePorts.
	InternalLocal, ExternalLocal bool
	// HealthCheckNodePort is where load balancers ask a node for its endpoints, if the external policy is Local; 0 for
	// nowhere.
	HealthCheckNodePort uint16
	Ports               []Port
}

// Port is one port of a Service with the endpoints behind it, of both families.
type Port struct {
	Name     string
	Protocol nft.Protocol
	Port     uint16
	// NodePort is the port at the nodes' addresses, 0 for none.
	NodePort  uint16
	Endpoints []Endpoint
}

// Endpoint is one address and port that serves a Service port.
type Endpoint struct {
	netip.AddrPort
	// Node is the name of the node it runs on, empty if unknown.
	Node string
	// Ready, Serving and Terminating are the EndpointSlice's conditions.
	Ready, Serving, Terminating bool
	// Hints say for whom the endpoint is meant; nil if they say nothing.
	Hints *Hints
}

// Hints are the zones and the nodes an endpoint is meant for (KEP-2433, KEP-3015).
type Hints struct {
	Zones, Nodes []string
}

// Update is what a source has seen change since its last Update.
type Update struct {
	// Node is the node now. When it differs from the last Update's, Services holds every Service.
	Node Node
	// Services are those added or changed, whole.
	Services []Service
	// Removed are those gone.
	Removed []ServiceName
	// NotEligible says that load balancers should send this node nothing new: its Node object is to be deleted, or is
	// not there where it must be (KEP-3836).
	NotEligible bool
	// Seen is when the first of the changes reached this machine, Triggered when what caused them happened in the
	// cluster, as far as EndpointSlices say. Neither has to do with what is rendered.
	Seen      time.Time
	Triggered []time.Time
}
