package render

import (
	"net/netip"
	"slices"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// Reasons why a flow is stale or not.
const (
	FlowForeign         Reason = "the destination is not a frontend"
	FlowProtocol        Reason = "flows of this protocol are left alone"
	FlowServed          Reason = "the endpoint serves the frontend"
	FlowEndpointGone    Reason = "the endpoint is in no EndpointSlice of the Service"
	FlowEndpointUnready Reason = "the endpoint does not serve the frontend, and another endpoint does"
	FlowLastEndpoint    Reason = "no endpoint serves the frontend, and this endpoint is still in an EndpointSlice"
	FlowAssociation     Reason = "SCTP associations continue while their endpoint is in an EndpointSlice"
	FlowNotAdmitted     Reason = "the source is outside the Service's loadBalancerSourceRanges"
	FlowFrontendGone    Reason = "the frontend no longer exists"
	FlowUntranslated    Reason = "the flow began while the frontend did not exist, and is not translated"
	FlowNoEndpoint      Reason = "the flow is not translated, and no endpoint serves the frontend"
	FlowOfNode          Reason = "a process on this node answers the flow"
	FlowOfAddress       Reason = "the SCTP association was established with the address itself"
	FlowOtherZone       Reason = "the flow is in another conntrack zone, where another program may translate it"
	FlowPastFrontend    Reason = "the frontend no longer exists, and the flow is not translated"
)

// Judge reports whether a flow is stale, and why.
func (x *FlowIndex) Judge(f conntrack.Flow) (stale bool, why Reason) {
	if !hasFlows(f.Protocol) {
		return false, FlowProtocol
	}
	frontend := Frontend{f.Original.Destination, f.Protocol}
	at, ok := x.frontends[frontend]
	if !ok {
		return x.judgePast(frontend, f)
	}
	endpoint, listed := at.port.find(f.Reply.Source)
	serves := listed && endpoint.serves()
	switch {
	case (serves || f.Translated()) && !at.admits(f.Original.Source.Addr()):
		return true, FlowNotAdmitted
	case serves:
		return false, FlowServed
	case f.Translated():
		return at.port.judgeTranslated(f, listed)
	}
	return at.judgeUntranslated(f)
}

// judgeTranslated judges a flow to an endpoint that does not serve. A UDP flow is stale if another endpoint can answer. If none
// can, the flow continues, because an endpoint that is not ready may still answer; kube-proxy does the same
// (pkg/proxy/conntrack/cleanup.go). But an endpoint that is in no EndpointSlice is gone, and another Pod may get its address. listed: the endpoint
// is in an EndpointSlice.
func (p *flowPort) judgeTranslated(f conntrack.Flow, listed bool) (stale bool, why Reason) {
	switch {
	case !listed:
		return true, FlowEndpointGone
	case f.Protocol == nft.SCTP:
		return false, FlowAssociation
	case p.serves(Family(f.Reply.Source.Addr())):
		return true, FlowEndpointUnready
	}
	return false, FlowLastEndpoint
}

// judgeUntranslated judges a flow that reaches no endpoint. If an endpoint serves the frontend, the flow is stale. But a flow to a
// node port that was ever answered belongs to a process of this node that used the port first, and an SCTP association that was
// established has a peer: these may continue until their entries expire.
func (at flowFrontend) judgeUntranslated(f conntrack.Flow) (stale bool, why Reason) {
	switch {
	case f.Zone != 0:
		return false, FlowOtherZone
	case f.Answered() && at.kind == NodePort:
		return false, FlowOfNode
	case f.Answered() && f.Protocol == nft.SCTP:
		return false, FlowOfAddress
	case !at.port.serves(Family(f.Original.Destination.Addr())):
		return false, FlowNoEndpoint
	}
	return true, FlowUntranslated
}

// judgePast judges a flow whose destination is not a frontend. If it was one, an untranslated flow may belong to a program that
// has taken the address and port since.
func (x *FlowIndex) judgePast(frontend Frontend, f conntrack.Flow) (stale bool, why Reason) {
	if _, gone := x.gone[frontend]; !gone {
		return false, FlowForeign
	}
	if !f.Translated() {
		return false, FlowPastFrontend
	}
	return true, FlowFrontendGone
}

// serves reports whether any endpoint of a family serves new flows of the port.
func (p *flowPort) serves(f nft.Family) bool {
	return slices.ContainsFunc(p.endpoints, func(e Endpoint) bool { return Family(e.Addr()) == f && e.serves() && !e.Drained })
}

// sources returns the sources that the frontend admits, nil for all.
func (at flowFrontend) sources(f nft.Family) []netip.Prefix {
	if at.kind != LoadBalancer {
		return nil
	}
	return at.port.admitted[f]
}

// admits reports whether the frontend admits a source.
func (at flowFrontend) admits(source netip.Addr) bool {
	admitted := at.sources(Family(source))
	return admitted == nil || slices.ContainsFunc(admitted, func(p netip.Prefix) bool { return p.Contains(source) })
}

// admitsAll reports whether the frontend admits the sources of a family that it admitted in a former state.
func (at flowFrontend) admitsAll(f nft.Family, had flowFrontend) bool {
	now, before := at.sources(f), had.sources(f)
	if now == nil || before == nil {
		return now == nil
	}
	return !slices.ContainsFunc(before, func(p netip.Prefix) bool {
		return !slices.ContainsFunc(now, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
	})
}

// mayEndFlows reports whether flows of a family that were not stale in a former state of the frontend may be stale now.
func (at flowFrontend) mayEndFlows(f nft.Family, had flowFrontend) bool {
	return at.port.lacks(had.port, f) || at.port.serves(f) && !had.port.serves(f) || !at.admitsAll(f, had)
}

// lacks reports whether the port lacks an endpoint of a family that it had in a former state, or one that served serves no longer.
func (p *flowPort) lacks(had *flowPort, f nft.Family) bool {
	now := p.endpoints
	for _, e := range had.endpoints {
		for len(now) > 0 && now[0].AddrPort.Compare(e.AddrPort) < 0 {
			now = now[1:]
		}
		there := len(now) > 0 && now[0].AddrPort == e.AddrPort
		if Family(e.Addr()) == f && (!there || e.serves() && !now[0].serves()) {
			return true
		}
	}
	return false
}

// find returns the endpoint with an address and port, false if it is in no EndpointSlice.
func (p *flowPort) find(at netip.AddrPort) (Endpoint, bool) {
	i, ok := slices.BinarySearchFunc(p.endpoints, at, func(e Endpoint, at netip.AddrPort) int { return e.AddrPort.Compare(at) })
	if !ok {
		return Endpoint{}, false
	}
	return p.endpoints[i], true
}

// serves reports whether an endpoint serves, even while it terminates. Flows to a drained one continue.
func (e Endpoint) serves() bool { return e.Ready || e.Serving }
