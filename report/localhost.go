package report

import (
	"fmt"
	"slices"

	"nfproxy/nft"
	"nfproxy/render"
)

// Reasons about connections to loopback addresses.
const (
	// LoopbackUntouched is why tables do not touch them.
	LoopbackUntouched render.Reason = "no rule concerns loopback addresses"
	// ListenerServes is why a node port is served at a loopback address, NoListener why none is.
	ListenerServes render.Reason = "nfproxy run itself accepts connections here and connects to an endpoint"
	NoListener     render.Reason = "node ports are not served at this loopback address with this configuration"
	// OnlyTCP is why a node port of another protocol is not served.
	OnlyTCP render.Reason = "only TCP node ports are served at loopback addresses"
)

// whyLoopback returns the reason why the tables do not touch a connection to a loopback address, and what else may serve it.
func (x *explainer) whyLoopback() render.Reason {
	why := LoopbackUntouched
	if x.packet.Protocol != nft.TCP {
		return why + "; " + OnlyTCP
	}
	why += "; nfproxy run itself accepts connections to TCP node ports here if its node port addresses contain localhost"
	if service := x.nodePortOwner(); service != "" {
		why += render.Reason(fmt.Sprintf("; %d/tcp is a node port of %s", x.To.Port, service))
	}
	return why
}

// nodePortOwner returns the Service port whose node port the destination port is at another address, empty if there is none.
func (x *explainer) nodePortOwner() string {
	services := x.table.Set(x.schema.Services.Name)
	if services == nil {
		return ""
	}
	for _, e := range services.Elements {
		f := e.Key.Fields(x.schema.Services.Key)
		if f != nil && f[1].Proto() == x.packet.Protocol && f[2].Uint16() == x.To.Port && describeKind(x.table, e.Key) == render.NodePort {
			return e.Comment
		}
	}
	return ""
}

// expectLocalhost fills in what the desired state says about a connection to a loopback address.
func (x *Expectation) expectLocalhost(u render.Update, to render.Frontend) {
	switch {
	case !slices.Contains(u.Node.Loopback, to.Addr()):
		x.Why = NoListener
		return
	case to.Protocol != nft.TCP:
		x.Why = OnlyTCP
		return
	}
	var owner render.LocalhostPort
	for _, s := range u.Services {
		for _, p := range render.LocalhostPortsOf(u.Node, s) {
			if p.At == to.AddrPort && (!owner.At.IsValid() || p.Precedes(owner)) {
				owner = p
				x.listens(u.Node, s, p)
			}
		}
	}
}

// listens fills in a node port at a loopback address: the endpoints, chosen or not.
func (x *Expectation) listens(n render.Node, s render.Service, at render.LocalhostPort) {
	x.Service, x.Action, x.Why, x.Endpoints = s.String(), "listen", ListenerServes, []JudgedEndpoint{}
	if len(at.Endpoints) == 0 {
		x.Action, x.Why = "refuse", at.Why
	}
	for _, p := range s.Ports {
		if p.Protocol != nft.TCP || p.NodePort != at.At.Port() {
			continue
		}
		family := render.Family(at.At.Addr())
		x.judgeEndpoints(n, p, family, render.Select(n, p, family), s.ExternalLocal)
		return
	}
}
