package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
)

// Reasons why an endpoint is not selected. The names in its hints are appended to the reasons about hints.
const (
	OtherFamily      Reason = "address of the other family"
	NotOnThisNode    Reason = "not on this node"
	NotReady         Reason = "not ready"
	TerminatingAway  Reason = "terminating, and other endpoints are ready"
	TerminatingDone  Reason = "terminating and no longer serving"
	HintedOtherNodes Reason = "hinted for other nodes"
	HintedOtherZones Reason = "hinted for other zones"
	WeightZero       Reason = "weight 0: no new connections"
	TooManyEndpoints Reason = "the frontend has the maximum number of endpoints"
)

// ExcludedEndpoint is an endpoint that is not selected, and the reason.
type ExcludedEndpoint struct {
	Endpoint
	Reason Reason
}

// Excluded returns the endpoints of a port that Select excludes for a family from Selection.Cluster, or with local from
// Selection.Local, each with the first reason that applies.
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

// List returns Local or Cluster.
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
	case e.Drained:
		return WeightZero
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

// hintText returns the names in hints, to be appended to a reason.
func hintText(names []string) Reason {
	return Reason(fmt.Sprintf(": %s", strings.Join(names, ", ")))
}
