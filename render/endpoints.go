package render

import (
	"slices"

	"nfproxy/nft"
)

// Reason says why a choice was made.
type Reason string

// Why endpoints were chosen, or none.
const (
	ReadyEndpoints       Reason = "the ready endpoints"
	NodeEndpoints        Reason = "the ready endpoints hinted for this node"
	ZoneEndpoints        Reason = "the ready endpoints hinted for this zone"
	TerminatingEndpoints Reason = "none is ready, these terminate and still serve"
	NoEndpoint           Reason = "there is no endpoint"
	NoEndpointFamily     Reason = "no endpoint has an address of this family"
	NoEndpointReady      Reason = "no endpoint is ready"
	NoEndpointLocal      Reason = "no usable endpoint is on this node"
)

// maxEndpoints is how many endpoints a frontend can have: slots are numbered with 16 bits.
const MaxEndpoints = 1 << 16

// Selection is the endpoints of a port that serve frontends of one family, each list in order of their addresses.
type Selection struct {
	// Cluster are those for everybody, Local those for who must be served by this node. The two fall back to
	// terminating endpoints independently.
	Cluster, Local []Endpoint
	// WhyCluster and WhyLocal say why these, or why none.
	WhyCluster, WhyLocal Reason
}

// Select chooses the endpoints of a port that serve frontends of a family: the ready ones, narrowed by topology hints; if
// none is ready, those that terminate and still serve. See KEP-1669 for the latter, KEP-2433 and KEP-3015 for hints.
func Select(n Node, p Port, f nft.Family) Selection {
	family := filter(p.Endpoints, func(e Endpoint) bool { return Family(e.Addr()) == f })
	ready := filter(family, func(e Endpoint) bool { return e.Ready })
	serving := filter(family, func(e Endpoint) bool { return e.Serving && e.Terminating })
	local := func(e Endpoint) bool { return e.isLocal(n) }

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
	case len(family) == 0:
		s.WhyCluster = NoEndpointFamily
	case len(s.Cluster) == 0:
		s.WhyCluster = NoEndpointReady
	}
	if len(s.Local) == 0 {
		s.WhyLocal = NoEndpointLocal
	}
	s.Cluster, s.Local = inOrder(s.Cluster), inOrder(s.Local)
	return s
}

// hinted narrows ready endpoints by their hints. Hints for nodes count if all endpoints have some and one names this
// node; else hints for zones, likewise; else none do.
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

// meantFor returns the endpoints whose hints have the name, none if an endpoint has no hints.
func hintedFor(name string, ready []Endpoint, hints func(Endpoint) []string) []Endpoint {
	silent := func(e Endpoint) bool { return len(hints(e)) == 0 }
	if name == "" || slices.ContainsFunc(ready, silent) {
		return nil
	}
	return filter(ready, func(e Endpoint) bool { return slices.Contains(hints(e), name) })
}

func (e Endpoint) hints() Hints {
	if e.Hints == nil {
		return Hints{}
	}
	return *e.Hints
}

func (e Endpoint) isLocal(n Node) bool { return e.Node == n.Name && n.Name != "" }

func filter(all []Endpoint, keep func(Endpoint) bool) []Endpoint {
	var kept []Endpoint
	for _, e := range all {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	return kept
}

// inOrder sorts the endpoints by address, each once.
func inOrder(all []Endpoint) []Endpoint {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Endpoint) int { return a.AddrPort.Compare(b.AddrPort) })
	all = slices.CompactFunc(all, func(a, b Endpoint) bool { return a.AddrPort == b.AddrPort })
	return all[:min(len(all), MaxEndpoints)]
}
