package render

import (
	"slices"

	"nfproxy/nft"
)

// Reason is the reason for a choice, in words for users.
type Reason string

// Reasons for the choice of endpoints.
const (
	ReadyEndpoints       Reason = "the ready endpoints"
	NodeEndpoints        Reason = "the ready endpoints hinted for this node"
	ZoneEndpoints        Reason = "the ready endpoints hinted for this zone"
	TerminatingEndpoints Reason = "no endpoint is ready; these are terminating but still serving"
	NoEndpoint           Reason = "the Service port has no endpoints"
	NoEndpointFamily     Reason = "no endpoint has an address of this family"
	NoEndpointReady      Reason = "no endpoint is ready"
	NoEndpointLocal      Reason = "this node has no usable endpoint"
	NoEndpointWeight     Reason = "every endpoint that could serve has weight 0"
)

// MaxEndpoints is the largest number of endpoints of a frontend: slots have 16 bits.
const MaxEndpoints = 1 << 16

// Selection holds the endpoints of a port that serve its frontends of one family, sorted by address.
type Selection struct {
	// Cluster are the endpoints for connections without restriction, Local those for connections that policy Local keeps on this
	// node. The two fall back to terminating endpoints independently.
	Cluster, Local []Endpoint
	// WhyCluster and WhyLocal are the reasons for these endpoints, or for none.
	WhyCluster, WhyLocal Reason
}

// Select selects the endpoints of a port for a family: the ready ones that topology hints allow (KEP-2433, KEP-3015); if none is
// ready, those that are terminating but still serving (KEP-1669). Drained endpoints are treated as if they did not exist.
func Select(n Node, p Port, f nft.Family) Selection {
	all := filter(p.Endpoints, func(e *Endpoint) bool { return Family(e.Addr()) == f })
	family := filter(all, func(e *Endpoint) bool { return !e.Drained })
	ready := filter(family, func(e *Endpoint) bool { return e.Ready })
	serving := filter(family, func(e *Endpoint) bool { return e.Serving && e.Terminating })
	local := func(e *Endpoint) bool { return e.isLocal(n) }

	var s Selection
	s.Cluster, s.WhyCluster = hinted(n, ready)
	s.Local, s.WhyLocal = filter(ready, local), ReadyEndpoints
	if len(s.Cluster) == 0 {
		s.Cluster, s.WhyCluster = serving, TerminatingEndpoints
	}
	if len(s.Local) == 0 {
		s.Local, s.WhyLocal = filter(serving, local), TerminatingEndpoints
	}
	switch {
	case len(p.Endpoints) == 0:
		s.WhyCluster = NoEndpoint
	case len(all) == 0:
		s.WhyCluster = NoEndpointFamily
	case len(s.Cluster) == 0 && slices.ContainsFunc(all, func(e Endpoint) bool { return e.Drained && e.serves() }):
		s.WhyCluster = NoEndpointWeight
	case len(s.Cluster) == 0:
		s.WhyCluster = NoEndpointReady
	}
	if len(s.Local) == 0 {
		s.WhyLocal = NoEndpointLocal
	}
	s.Cluster, s.Local = inOrder(s.Cluster), inOrder(s.Local)
	return s
}

// hinted returns the ready endpoints that their hints allow. Node hints apply if every endpoint has some and one names this node.
// Otherwise zone hints apply under the same condition, otherwise no hints do.
func hinted(n Node, ready []Endpoint) ([]Endpoint, Reason) {
	byNode := func(e Endpoint) []string { return e.hints().Nodes }
	if chosen := hintedFor(n.Name, ready, byNode); len(chosen) > 0 {
		return chosen, NodeEndpoints
	}
	byZone := func(e Endpoint) []string { return e.hints().Zones }
	if chosen := hintedFor(n.Zone, ready, byZone); len(chosen) > 0 {
		return chosen, ZoneEndpoints
	}
	return ready, ReadyEndpoints
}

// hintedFor returns the endpoints whose hints contain a name, none if any endpoint has no hints.
func hintedFor(name string, ready []Endpoint, hints func(Endpoint) []string) []Endpoint {
	unhinted := func(e Endpoint) bool { return len(hints(e)) == 0 }
	if name == "" || slices.ContainsFunc(ready, unhinted) {
		return nil
	}
	return filter(ready, func(e *Endpoint) bool { return slices.Contains(hints(*e), name) })
}

func (e Endpoint) hints() Hints {
	if e.Hints == nil {
		return Hints{}
	}
	return *e.Hints
}

func (e *Endpoint) isLocal(n Node) bool { return e.Node == n.Name && n.Name != "" }

// filter returns the endpoints to keep, the list itself if these are all.
func filter(all []Endpoint, keep func(*Endpoint) bool) []Endpoint {
	count := 0
	for i := range all {
		if keep(&all[i]) {
			count++
		}
	}
	if count == len(all) || count == 0 {
		return all[:count]
	}
	kept := make([]Endpoint, 0, count)
	for i := range all {
		if keep(&all[i]) {
			kept = append(kept, all[i])
		}
	}
	return kept
}

// inOrder returns the endpoints sorted by address, each once, at most MaxEndpoints.
func inOrder(all []Endpoint) []Endpoint {
	all = byAddress(all)
	return all[:min(len(all), MaxEndpoints)]
}

// byAddress returns the endpoints sorted by address, each once: the list itself if it is in order.
func byAddress(all []Endpoint) []Endpoint {
	if ascending(all) {
		return all
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Endpoint) int { return a.AddrPort.Compare(b.AddrPort) })
	return slices.CompactFunc(all, func(a, b Endpoint) bool { return a.AddrPort == b.AddrPort })
}

// ascending reports whether each endpoint has a lower address and port than the next.
func ascending(all []Endpoint) bool {
	for i := 1; i < len(all); i++ {
		if all[i-1].AddrPort.Compare(all[i].AddrPort) >= 0 {
			return false
		}
	}
	return true
}
