package render

import (
	"net/netip"
	"slices"

	"nfproxy/nft"
)

// FlowIndex holds the endpoints and the admitted sources of each UDP and SCTP frontend, and decides which conntrack entries are
// stale. A stale entry sends packets where no new connection would go, for as long as packets keep coming. TCP is left alone: its
// peers notice, and terminating endpoints finish their connections. GoneEndpoints is for those that do not notice.
//
// The index also knows which entries have to be examined. Take applies an Update and Programmed notes that the kernel has it;
// then Next returns the entries to list, Judge is called for each of them, and CleanedUp or Failed reports the result. The
// index is level-based: a complete cleanup corrects any earlier failure.
type FlowIndex struct {
	services  map[ServiceName][]*flowPort // with UDP or SCTP ports
	frontends map[Frontend]flowFrontend   // with the port of the Service that owns each
	// gone holds the frontends that disappeared since their last cleanup, with the epoch of their disappearance.
	gone map[Frontend]uint64
	// beside: the instance runs beside another proxy, to which frontends that disappear may have moved. Their flows are left alone.
	beside bool
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
	// endpoints are all endpoints in the EndpointSlices, sorted. The list is shared with the Service.
	endpoints []Endpoint
	frontends map[Frontend]Kind
	// admitted holds the sources that reach load balancer addresses, by family; nil means all sources.
	admitted map[nft.Family][]netip.Prefix
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
// Update: of several Services that claim it, the one to which the tables send new connections (Ruleset.Owner). The index keeps the lists
// of endpoints, which must not be modified.
func (x *FlowIndex) Take(u Update, owner func(Frontend) ServiceName) {
	x.beside = u.Node.Instance.Name() != ""
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

// flowPorts returns the Service's UDP and SCTP ports. Policies and topology do not matter: they decide only where new connections
// go.
func flowPorts(n Node, s Service) []*flowPort {
	var ports []*flowPort
	addresses, admitted := FrontendAddressesOf(n, s), admittedByFamily(n, s) // the same for all ports
	for _, p := range s.Ports {
		if !hasFlows(p.Protocol) {
			continue
		}
		port := &flowPort{endpoints: byAddress(p.Endpoints), frontends: make(map[Frontend]Kind), admitted: admitted}
		for kind, at := range p.Frontends(addresses) {
			f := Frontend{at, p.Protocol}
			if _, twice := port.frontends[f]; !twice {
				port.frontends[f] = kind
			}
		}
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
		if now.mayEndFlows(Family(f.Addr()), had) {
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

// markGone notes that a frontend is gone, unless it may have moved to another proxy.
func (x *FlowIndex) markGone(f Frontend) {
	if x.beside {
		return
	}
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
