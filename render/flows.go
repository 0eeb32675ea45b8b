package render

import (
	"net/netip"
	"slices"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// Reasons why a flow is stale or not.
const (
	FlowForeign      Reason = "the destination is not a frontend"
	FlowProtocol     Reason = "flows of this protocol are left alone"
	FlowServed       Reason = "the endpoint serves the frontend"
	FlowEndpointGone Reason = "the endpoint no longer serves the frontend"
	FlowNoEndpoint   Reason = "no endpoint serves the frontend"
	FlowFrontendGone Reason = "the frontend no longer exists"
	FlowUntranslated Reason = "the flow began while the frontend did not exist, and is not translated"
	FlowOfNode       Reason = "a process on this node answers the flow"
	FlowOtherZone    Reason = "the flow is in another conntrack zone, where another program may translate it"
	FlowPastFrontend Reason = "the frontend no longer exists, and the flow is not translated"
)

// FlowIndex holds the endpoints that may answer at each UDP and SCTP frontend, and decides which conntrack entries are stale. A
// stale entry sends packets where no new connection would go, for as long as packets keep coming. TCP is left alone: its peers
// notice, and terminating endpoints finish their connections.
//
// The index also knows which entries have to be examined. Take applies an Update and Programmed notes that the kernel has it;
// then Next returns the entries to list, Judge is called for each of them, and CleanedUp or Failed reports the result. The
// index is level-based: a complete cleanup corrects any earlier failure.
type FlowIndex struct {
	services  map[ServiceName][]*flowPort // with UDP or SCTP ports
	frontends map[Frontend]flowFrontend   // with the port of the Service that owns each
	// gone holds the frontends that disappeared since their last cleanup, with the epoch of their disappearance.
	gone map[Frontend]uint64
	// sizes counts the frontends, existing and gone.
	sizes map[flowGroup]int

	programmed bool // Programmed was called
	// updated holds the frontends that Updates changed since the last call of Programmed, pending those that the next cleanup
	// examines.
	updated, pending flowScope
	epoch            uint64 // the number of cleanups begun
}

// flowPort is one port of a Service.
type flowPort struct {
	endpoints []netip.AddrPort // endpoints that may answer, sorted
	frontends map[Frontend]Kind
}

// flowFrontend is a frontend of a port.
type flowFrontend struct {
	port *flowPort
	kind Kind
}

// NewFlowIndex returns a FlowIndex without Services.
func NewFlowIndex() *FlowIndex {
	return &FlowIndex{
		services:  make(map[ServiceName][]*flowPort),
		frontends: make(map[Frontend]flowFrontend),
		gone:      make(map[Frontend]uint64),
		sizes:     make(map[flowGroup]int),
		updated:   make(flowScope),
		pending:   make(flowScope),
	}
}

// Take applies an Update. Its effects are examined after Programmed. owner returns the Service that owns a frontend after the
// Update: of several Services that claim it, the one to which the tables send new connections (Ruleset.Owner).
func (x *FlowIndex) Take(u Update, owner func(Frontend) ServiceName) {
	touched := make(map[Frontend]bool) // those whose owner or endpoints may have changed
	for _, name := range u.Removed {
		x.replace(name, nil, touched)
	}
	for _, s := range u.Services {
		x.replace(s.ServiceName, flowPorts(u.Node, s), touched)
	}
	for f := range touched {
		x.assign(f, owner(f))
	}
}

// flowPorts returns the Service's UDP and SCTP ports. An endpoint may answer if it is ready or serving, even while it
// terminates. Policies, topology and source ranges do not matter: they decide where new connections go.
func flowPorts(n Node, s Service) []*flowPort {
	var ports []*flowPort
	for _, p := range s.Ports {
		if !hasFlows(p.Protocol) {
			continue
		}
		port := &flowPort{frontends: make(map[Frontend]Kind)}
		for _, e := range p.Endpoints {
			if e.Ready || e.Serving {
				port.endpoints = append(port.endpoints, e.AddrPort)
			}
		}
		slices.SortFunc(port.endpoints, netip.AddrPort.Compare)
		p.Frontends(n, s, func(kind Kind, at netip.AddrPort) {
			f := Frontend{at, p.Protocol}
			if _, twice := port.frontends[f]; !twice {
				port.frontends[f] = kind
			}
		})
		ports = append(ports, port)
	}
	return ports
}

func hasFlows(p nft.Protocol) bool { return p == nft.UDP || p == nft.SCTP }

// replace replaces the ports of a Service and adds the frontends of the old and the new ones to touched.
func (x *FlowIndex) replace(name ServiceName, want []*flowPort, touched map[Frontend]bool) {
	for _, port := range slices.Concat(x.services[name], want) {
		for f := range port.frontends {
			touched[f] = true
		}
	}
	if want == nil {
		delete(x.services, name)
	} else {
		x.services[name] = want
	}
}

// assign assigns a frontend to its owner, the zero ServiceName for none. It adds the frontend to the updated ones if its flows
// may have become stale.
func (x *FlowIndex) assign(f Frontend, owner ServiceName) {
	had, existed := x.frontends[f]
	now, exists := x.frontendOf(f, owner)
	switch {
	case exists && !existed:
		x.frontends[f] = now
		x.sizes[flowGroupOf(f)]++
		x.unmarkGone(f)
		x.updated.add(f)
	case !exists && existed:
		delete(x.frontends, f)
		x.sizes[flowGroupOf(f)]--
		x.markGone(f)
		x.updated.add(f)
	case exists:
		x.frontends[f] = now
		if !now.port.hasAll(f, had.port) {
			x.updated.add(f)
		}
	}
}

// frontendOf returns the first port of a Service that has the frontend, as the tables do.
func (x *FlowIndex) frontendOf(f Frontend, name ServiceName) (flowFrontend, bool) {
	for _, port := range x.services[name] {
		if kind, ok := port.frontends[f]; ok {
			return flowFrontend{port, kind}, true
		}
	}
	return flowFrontend{}, false
}

// markGone notes that a frontend is gone.
func (x *FlowIndex) markGone(f Frontend) {
	if _, had := x.gone[f]; !had {
		x.sizes[flowGroupOf(f)]++
	}
	x.gone[f] = x.epoch
}

// unmarkGone notes that a frontend exists again, or that its flows were cleaned up.
func (x *FlowIndex) unmarkGone(f Frontend) {
	if _, had := x.gone[f]; had {
		delete(x.gone, f)
		x.sizes[flowGroupOf(f)]--
	}
}

// Judge reports whether a flow is stale, and why.
//
// An untranslated flow reaches no endpoint. It is stale even if the frontend has no endpoint: a new connection would be refused,
// which tells the client. But an untranslated flow to a node port that was ever answered belongs to a process of this node that
// used the port first; it may continue until its entry expires.
func (x *FlowIndex) Judge(f conntrack.Flow) (stale bool, why Reason) {
	if !hasFlows(f.Protocol) {
		return false, FlowProtocol
	}
	frontend := Frontend{f.Original.Destination, f.Protocol}
	at, ok := x.frontends[frontend]
	switch {
	case !ok:
		return x.judgePast(frontend, f)
	case at.port.has(f.Reply.Source):
		return false, FlowServed
	case f.Translated() && len(at.port.endpoints) == 0:
		return true, FlowNoEndpoint
	case f.Translated():
		return true, FlowEndpointGone
	case f.Zone != 0:
		return false, FlowOtherZone
	case f.Answered() && at.kind == NodePort:
		return false, FlowOfNode
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

// has reports whether the endpoint may answer for the port.
func (p *flowPort) has(endpoint netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(p.endpoints, endpoint, netip.AddrPort.Compare)
	return ok
}

// hasAll reports whether the port has all endpoints of another port that can serve a frontend.
func (p *flowPort) hasAll(f Frontend, other *flowPort) bool {
	return !slices.ContainsFunc(other.endpoints, func(e netip.AddrPort) bool {
		return Family(e.Addr()) == Family(f.Addr()) && !p.has(e)
	})
}
