package render

import (
	"net/netip"
	"slices"

	"nfproxy/nft"

	"nfproxy/conntrack"
)

// Why a flow is stale, or why not.
const (
	FlowForeign      Reason = "it is to no frontend"
	FlowProtocol     Reason = "connections of this protocol are left alone"
	FlowServed       Reason = "its endpoint serves the frontend"
	FlowEndpointGone Reason = "its endpoint serves the frontend no more"
	FlowNoEndpoint   Reason = "no endpoint serves the frontend"
	FlowFrontendGone Reason = "the frontend is gone"
	FlowUntranslated Reason = "it began when the frontend was not there, and does not reach it"
	FlowOfNode       Reason = "the node itself answers it"
	FlowOtherZone    Reason = "it is tracked in another zone, and who translates it there is not known"
	FlowPastFrontend Reason = "the frontend is gone, and it is not translated"
)

// Frontend is where a Service is reached.
type Frontend struct {
	netip.AddrPort
	Protocol nft.Protocol
}

// FlowIndex knows of every UDP and SCTP frontend which endpoints may answer, and says which entries of the connection
// tracking are stale: they send packets where no new connection would go, for as long as packets come. TCP is left
// alone: its ends notice, and endpoints that terminate finish what they have begun.
//
// It knows as well which entries have to be looked at. Take tells it of an update, Programmed that the kernel has it;
// then Next says what to list, Judge is asked about each entry, and Swept or Failed how it went. In short, level-based:
// whatever went wrong before, a complete sweep puts right.
type FlowIndex struct {
	services  map[ServiceName][]*flowPort // those with UDP or SCTP ports
	frontends map[Frontend][]flowClaim
	// gone are the frontends that went since they were last swept, with the epoch they went in.
	gone map[Frontend]uint64
	// sizes counts the frontends and those gone.
	sizes map[flowGroup]int

	programmed bool // ever
	noted, due flowDuty
	epoch      uint64 // how many sweeps began
}

// flowPort is one port of a Service with all that its frontends have in common.
type flowPort struct {
	endpoints []netip.AddrPort // that may answer, in order
	frontends []flowFrontend
}

type flowFrontend struct {
	Frontend
	kind Kind
}

// flowClaim is a port's claim to a frontend. There can be several. Those of the best kind count; which of these has the
// frontend is not asked, since what any of them allows does no harm.
type flowClaim struct {
	port *flowPort
	kind Kind
}

// NewFlowIndex returns a FlowIndex without Services.
func NewFlowIndex() *FlowIndex {
	return &FlowIndex{
		services:  make(map[ServiceName][]*flowPort),
		frontends: make(map[Frontend][]flowClaim),
		gone:      make(map[Frontend]uint64),
		sizes:     make(map[flowGroup]int),
		noted:     make(flowDuty),
		due:       make(flowDuty),
	}
}

// Take takes over what changed. It is not looked at before Programmed.
func (x *FlowIndex) Take(u Update) {
	for _, name := range u.Removed {
		x.replace(name, nil)
	}
	for _, s := range u.Services {
		x.replace(s.ServiceName, flowPorts(u.Node, s))
	}
}

// flowPorts returns the Service's UDP and SCTP ports. An endpoint may answer if it is ready or serves, also while it
// terminates. Policies, topology and source ranges are not asked: they say where new connections go.
func flowPorts(n Node, s Service) []*flowPort {
	var ports []*flowPort
	for _, p := range s.Ports {
		if !hasFlows(p.Protocol) {
			continue
		}
		port := &flowPort{}
		for _, e := range p.Endpoints {
			if e.Ready || e.Serving {
				port.endpoints = append(port.endpoints, e.AddrPort)
			}
		}
		slices.SortFunc(port.endpoints, netip.AddrPort.Compare)
		p.Frontends(n, s, func(kind Kind, at netip.AddrPort) {
			port.frontends = append(port.frontends, flowFrontend{Frontend{at, p.Protocol}, kind})
		})
		ports = append(ports, port)
	}
	return ports
}

func hasFlows(p nft.Protocol) bool { return p == nft.UDP || p == nft.SCTP }

// replace gives a Service other ports, and notes the frontends of which flows may have become stale.
func (x *FlowIndex) replace(name ServiceName, want []*flowPort) {
	have := x.services[name]
	if have == nil && want == nil {
		return
	}
	before := make(map[Frontend][]flowClaim)
	for _, port := range slices.Concat(have, want) {
		for _, f := range port.frontends {
			before[f.Frontend] = x.frontends[f.Frontend]
		}
	}
	for _, port := range have {
		x.release(port)
	}
	for _, port := range want {
		x.assert(port)
	}
	if want == nil {
		delete(x.services, name)
	} else {
		x.services[name] = want
	}
	for f, had := range before {
		now := x.frontends[f]
		switch {
		case now == nil:
			x.remember(f)
			x.noted.add(f)
		case had == nil:
			x.forget(f)
			x.noted.add(f)
		case !allAllowed(f, best(now), best(had)):
			x.noted.add(f)
		}
	}
}

// release and assert do not change lists of claims in place: replace compares them.
func (x *FlowIndex) release(port *flowPort) {
	for _, f := range port.frontends {
		claims := slices.Clone(x.frontends[f.Frontend])
		claims = slices.DeleteFunc(claims, func(c flowClaim) bool { return c.port == port })
		x.set(f.Frontend, claims)
	}
}

func (x *FlowIndex) assert(port *flowPort) {
	for _, f := range port.frontends {
		x.set(f.Frontend, append(slices.Clip(x.frontends[f.Frontend]), flowClaim{port, f.kind}))
	}
}

func (x *FlowIndex) set(f Frontend, claims []flowClaim) {
	_, had := x.frontends[f]
	switch {
	case len(claims) > 0:
		x.frontends[f] = claims
		if !had {
			x.sizes[flowGroupOf(f)]++
		}
	case had:
		delete(x.frontends, f)
		x.sizes[flowGroupOf(f)]--
	}
}

// remember notes that a frontend is gone, forget that it is not any more.
func (x *FlowIndex) remember(f Frontend) {
	if _, had := x.gone[f]; !had {
		x.sizes[flowGroupOf(f)]++
	}
	x.gone[f] = x.epoch
}

func (x *FlowIndex) forget(f Frontend) {
	if _, had := x.gone[f]; had {
		delete(x.gone, f)
		x.sizes[flowGroupOf(f)]--
	}
}

// Judge says whether a flow is stale, and why.
//
// A flow that is not translated reaches no frontend. It is stale also where the frontend has no endpoint: a new one
// would be refused, and its client told. But one to a node port that was ever answered is the conversation of a process
// of the node, which was there first and goes on until it pauses.
func (x *FlowIndex) Judge(f conntrack.Flow) (stale bool, why Reason) {
	if !hasFlows(f.Protocol) {
		return false, FlowProtocol
	}
	frontend := Frontend{f.Original.Destination, f.Protocol}
	claims, ok := x.frontends[frontend]
	claims = best(claims)
	switch {
	case !ok:
		return x.judgePast(frontend, f)
	case allowed(claims, f.Reply.Source):
		return false, FlowServed
	case f.Translated() && !slices.ContainsFunc(claims, flowClaim.serves):
		return true, FlowNoEndpoint
	case f.Translated():
		return true, FlowEndpointGone
	case f.Zone != 0:
		return false, FlowOtherZone
	case f.Answered() && slices.ContainsFunc(claims, flowClaim.onNode):
		return false, FlowOfNode
	}
	return true, FlowUntranslated
}

// judgePast judges a flow to what is no frontend now. Where one was, what is not translated may be somebody's who has
// the address and port since.
func (x *FlowIndex) judgePast(frontend Frontend, f conntrack.Flow) (stale bool, why Reason) {
	if _, gone := x.gone[frontend]; !gone {
		return false, FlowForeign
	}
	if !f.Translated() {
		return false, FlowPastFrontend
	}
	return true, FlowFrontendGone
}

func (c flowClaim) serves() bool { return len(c.port.endpoints) > 0 }

func (c flowClaim) onNode() bool { return c.kind == NodePort }

// best returns the claims of the kind that has the best right: endpoints of an external IP that is another Service's cluster
// IP are none of that one's.
func best(claims []flowClaim) []flowClaim {
	if len(claims) < 2 {
		return claims
	}
	rank := func(c flowClaim) int { return c.kind.rank() }
	least := rank(slices.MinFunc(claims, func(a, b flowClaim) int { return rank(a) - rank(b) }))
	return slices.DeleteFunc(slices.Clone(claims), func(c flowClaim) bool { return rank(c) != least })
}

// allowed says whether one of the claims has the endpoint.
func allowed(claims []flowClaim, endpoint netip.AddrPort) bool {
	return slices.ContainsFunc(claims, func(c flowClaim) bool {
		_, ok := slices.BinarySearchFunc(c.port.endpoints, endpoint, netip.AddrPort.Compare)
		return ok
	})
}

// allAllowed says whether the claims to a frontend have all endpoints of the others that can be its own.
func allAllowed(f Frontend, claims, others []flowClaim) bool {
	for _, o := range others {
		for _, e := range o.port.endpoints {
			if Family(e.Addr()) == Family(f.Addr()) && !allowed(claims, e) {
				return false
			}
		}
	}
	return true
}
