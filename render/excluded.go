package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
)

// Why an endpoint is not chosen. Those with hints are followed by for whom the endpoint is meant.
const (
	OtherFamily      Reason = "its address is of the other family"
	NotOnThisNode    Reason = "it is not on this node"
	NotReady         Reason = "it is not ready"
	TerminatingAway  Reason = "it terminates, and others are ready"
	TerminatingDone  Reason = "it terminates and does not serve any more"
	HintedOtherNodes Reason = "it is hinted for other nodes"
	HintedOtherZones Reason = "it is hinted for other zones"
	TooManyEndpoints Reason = "there are more endpoints than a frontend can have"
)

// ExcludedEndpoint is an endpoint that does not serve, and why.
type ExcludedEndpoint struct {
	Endpoint
	Reason Reason
}

// Excluded lists the endpoints of a port that Select leaves out for a family, each with the first reason there is: of
// Selection.Cluster, or with local of Selection.Local.
func Excluded(n Node, p Port, f nft.Family, local bool) []ExcludedEndpoint {
	s := Select(n, p, f)
	chosen := make(map[netip.AddrPort]bool)
	for _, e := range s.List(local) {
		chosen[e.AddrPort] = true
	}
	var excluded []ExcludedEndpoint
	for _, e := range p.Endpoints {
		if !chosen[e.AddrPort] {
			excluded = append(excluded, ExcludedEndpoint{e, whyExcluded(n, s, e, f, local)})
		}
	}
	slices.SortStableFunc(excluded, func(a, b ExcludedEndpoint) int { return a.AddrPort.Compare(b.AddrPort) })
	return excluded
}

// list is Local or Cluster.
func (s Selection) List(local bool) []Endpoint {
	if local {
		return s.Local
	}
	return s.Cluster
}

func whyExcluded(n Node, s Selection, e Endpoint, f nft.Family, local bool) Reason {
	switch {
	case Family(e.Addr()) != f:
		return OtherFamily
	case local && !e.isLocal(n):
		return NotOnThisNode
	case e.Ready && !local && s.WhyCluster == NodeEndpoints:
		return HintedOtherNodes + hintText(e.hints().Nodes)
	case e.Ready && !local && s.WhyCluster == ZoneEndpoints:
		return HintedOtherZones + hintText(e.hints().Zones)
	case e.Ready:
		return TooManyEndpoints
	case e.Serving && e.Terminating && len(s.List(local)) >= MaxEndpoints:
		return TooManyEndpoints
	case e.Serving && e.Terminating:
		return TerminatingAway
	case e.Terminating:
		return TerminatingDone
	}
	return NotReady
}

// meant says for whom.
func hintText(names []string) Reason {
	return Reason(fmt.Sprintf(": %s", strings.Join(names, ", ")))
}
