package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
	"nfproxy/render"
)

// Expectation is what should become of connections according to the desired state.
type Expectation struct {
	// Service is the Service that should have the address and port, empty if none should. Action is that of its frontend,
	// "listen" for a node port at a loopback address, which no rule serves, or that of --unserved-ports if no Service has the port.
	Service string `json:"service,omitempty"`
	Action  string `json:"action,omitempty"`
	// Why is the reason, empty for pings, which no Service port gets.
	Why render.Reason `json:"why"`
	// Endpoints are all endpoints of the Service port, chosen or not.
	Endpoints []JudgedEndpoint `json:"endpoints"`
	Drift     Drift            `json:"drift"`
}

// JudgedEndpoint is an endpoint and the reason why connections are sent to it or not.
type JudgedEndpoint struct {
	Address netip.Addr    `json:"address"`
	Port    uint16        `json:"port"`
	Node    string        `json:"node,omitempty"`
	Chosen  bool          `json:"chosen"`
	Why     render.Reason `json:"why"`
}

// Drift is how far the tables are from the desired state.
type Drift struct {
	// Changes is the number of changes to make, each element counted. First is a summary of the first change.
	Changes int    `json:"changes"`
	First   string `json:"first,omitempty"`
	// Frontend reports whether the frontend explained is among the changes.
	Frontend bool `json:"frontend"`
}

// NotClaimed is why connections should be untouched.
const NotClaimed render.Reason = "no Service claims this address and port"

// hasPort reports whether the packet has ports, unlike a ping.
func (e Explanation) hasPort() bool { return e.To.Port != 0 }

// expect returns what the desired state says about the connections that e explains, and the drift of the tables. local reports that
// the address belongs to this machine. The
// reasons are those of render.RouteOf, render.Select and render.Excluded.
func expect(u render.Update, tables []*nft.Table, e Explanation, local bool) Expectation {
	r := render.NewRuleset(u.Node)
	r.Update(u)
	r.Observe(tables)
	protocol, _ := nft.ParseProtocol(e.To.Protocol)
	frontend := render.Frontend{AddrPort: netip.AddrPortFrom(e.To.Address, e.To.Port), Protocol: protocol}
	x := Expectation{Why: NotClaimed, Endpoints: []JudgedEndpoint{}, Drift: drift(r.Plan(), frontend)}
	if !e.hasPort() {
		x.Why = ""
		return x
	}
	if frontend.Addr().IsLoopback() {
		x.expectLocalhost(u, frontend)
		return x
	}
	owner := r.Owner(frontend)
	i := slices.IndexFunc(u.Services, func(s render.Service) bool { return s.ServiceName == owner })
	if i < 0 || owner == (render.ServiceName{}) {
		x.expectUnclaimed(u, e.To.Address, local)
		return x
	}
	x.Service = owner.String()
	if kind, port, ok := reachedAt(u.Node, u.Services[i], frontend); ok {
		x.judge(u.Node, u.Services[i], port, kind, e)
	}
	return x
}

// expectUnclaimed fills in what becomes of connections to an address and port that no Service gets.
func (x *Expectation) expectUnclaimed(u render.Update, addr netip.Addr, local bool) {
	if s, found := oversizedService(u, addr); found {
		x.Why = render.Reason(fmt.Sprintf("Service %s is too large: %s", s.ServiceName, s.Excess))
		if slices.Contains(s.ClusterIPs, addr) {
			x.Service, x.Action = s.String(), "refuse"
		}
	} else if d, found := disallowedAddress(u, addr); found {
		x.Why = render.Reason(fmt.Sprintf("the configuration of this node disallows this address, which Service %s has in %s", d.Service, d.Field))
	} else if i := slices.IndexFunc(u.Services, func(s render.Service) bool { return u.Node.DecidesAboutPorts(s, addr) }); i >= 0 && !local {
		x.Action = u.Node.UnservedPorts.String()
		x.Why = render.Reason(fmt.Sprintf("the address is one of Service %s, --unserved-ports is set, and no Service claims the port", u.Services[i].ServiceName))
	}
}

// reachedAt finds the port of a Service that has the frontend: the first, as in render.RulesOf.
func reachedAt(n render.Node, s render.Service, frontend render.Frontend) (kind render.Kind, port render.Port, found bool) {
	addresses := render.FrontendAddressesOf(n, s)
	for _, p := range s.Ports {
		if p.Protocol != frontend.Protocol {
			continue
		}
		for k, at := range p.Frontends(addresses) {
			if at == frontend.AddrPort {
				return k, p, true
			}
		}
	}
	return kind, port, false
}

// judge fills in the action and, for every endpoint of the port, why it is chosen or not.
func (x *Expectation) judge(n render.Node, s render.Service, p render.Port, k render.Kind, e Explanation) {
	family := render.Family(e.To.Address)
	selected := render.Select(n, p, family)
	var action render.Action
	action, x.Why = render.RouteOf(k, s, selected)
	x.Action = map[render.Action]string{render.Refuse: "refuse", render.Drop: "drop"}[action]
	if x.Action == "" {
		x.Action = "balance"
	}
	local := action == render.ToLocal || action == render.Drop || action == render.Split && e.From.Origin == Outsider
	x.judgeEndpoints(n, p, family, selected, local)
}

// judgeEndpoints fills in the endpoints: those of Selection.Cluster or, with local, of Selection.Local, and the excluded ones.
func (x *Expectation) judgeEndpoints(n render.Node, p render.Port, family nft.Family, selected render.Selection, local bool) {
	why := selected.WhyCluster
	if local {
		why = selected.WhyLocal
	}
	for _, c := range selected.List(local) {
		x.Endpoints = append(x.Endpoints, JudgedEndpoint{c.Addr(), c.Port(), c.Node, true, why})
	}
	for _, c := range render.Excluded(n, p, family, local) {
		x.Endpoints = append(x.Endpoints, JudgedEndpoint{c.Addr(), c.Port(), c.Node, false, c.Reason})
	}
}

// drift counts the changes to make. Unused load balancing chains do not count.
func drift(changes []nft.Change, frontend render.Frontend) Drift {
	var d Drift
	family, key := render.Family(frontend.Addr()), string(frontend.Key())
	for _, c := range render.WithoutUnusedObjects(changes) {
		if d.First == "" {
			d.First, _, _ = strings.Cut(c.Summary(), "\n")
		}
		list, ok := c.Object.(nft.Elements)
		if !ok {
			d.Changes++
			continue
		}
		d.Changes += len(list.List)
		d.Frontend = d.Frontend || len(list.Set.Key) >= 3 && slices.ContainsFunc(list.List, func(e nft.Element) bool {
			return list.Set.Table.Family == family && strings.HasPrefix(string(e.Key), key)
		})
	}
	return d
}
