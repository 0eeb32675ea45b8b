package render

import (
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
	// ServiceCIDRs are the ranges cluster IPs come from. What no Service has of them is dropped.
	ServiceCIDRs []netip.Prefix
}

func (n Node) equal(m Node) bool {
	return n.Name == m.Name && slices.Equal(n.ClusterCIDRs, m.ClusterCIDRs) && slices.Equal(n.ServiceCIDRs, m.ServiceCIDRs)
}

// ServiceName names a Service.
type ServiceName struct {
	Namespace, Name string
}

// String returns namespace/name.
func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// Service is one Service joined with its EndpointSlices: all that its rules depend on besides the Node.
// The order of its slices means nothing.
type Service struct {
	ServiceName
	// Created is the Service's creationTimestamp; of two Services that claim one frontend the older keeps it.
	Created time.Time
	// ClusterIPs has at most one address per family.
	ClusterIPs []netip.Addr
	Ports      []Port
}

// Port is one port of a Service with the endpoints behind it, of both families.
type Port struct {
	Name      string
	Protocol  nft.Protocol
	Port      uint16
	Endpoints []Endpoint
}

// Endpoint is one address and port that serves a Service port.
type Endpoint struct {
	netip.AddrPort
	// Node is the name of the node it runs on, empty if unknown.
	Node string
	// Ready is the EndpointSlice's ready condition.
	Ready bool
}

// Update is what a source has seen change since its last Update.
type Update struct {
	// Node is the node now. When it differs from the last Update's, Services holds every Service.
	Node Node
	// Services are those added or changed, whole.
	Services []Service
	// Removed are those gone.
	Removed []ServiceName
}
