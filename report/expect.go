package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"

	"nfproxy/render"
)

// Expectation is what should become of connections by what a source of Services says.
type Expectation struct {
	// Service is whose the address and port should be, empty if nobody's. Action is that of its frontend.
	Service string        `json:"service,omitempty"`
	Action  string        `json:"action,omitempty"`
	Why     render.Reason `json:"why"`
	// Endpoints are all of the Service port, chosen or not.
	Endpoints []JudgedEndpoint `json:"endpoints"`
	Drift     Drift            `json:"drift"`
}

// JudgedEndpoint is an endpoint with the reason why connections are sent to it, or not.
type JudgedEndpoint struct {
	Address netip.Addr    `json:"address"`
	Port    uint16        `json:"port"`
	Node    string        `json:"node,omitempty"`
	Chosen  bool          `json:"chosen"`
	Why     render.Reason `json:"why"`
}

// Drift is how far the tables are from what they should be.
type Drift struct {
	// Changes is how many there are to make, of elements and of others, First the first of them in short.
	Changes int    `json:"changes"`
	First   string `json:"first,omitempty"`
	// Frontend says that some of them are about the frontend explained.
	Frontend bool `json:"frontend"`
}

// NobodyClaims is why nothing should become of connections.
const NobodyClaims render.Reason = "no Service should have this address and port"

// Expect says what should become of the connections that e explains, by all that u says, and how far the tables are from
// it. The reasons are those of RouteOf, Select and Excluded.
func Expect(u render.Update, tables []*nft.Table, e Explanation) Expectation {
	r := render.NewRuleset(u.Node)
	r.Update(u)
	r.Observe(tables)
	protocol, _ := nft.ParseProtocol(e.To.Protocol)
	key := nft.Addr(e.To.Address) + nft.Proto(protocol) + nft.Port(e.To.Port)
	x := Expectation{Why: NobodyClaims, Endpoints: []JudgedEndpoint{}, Drift: drift(r.Plan(), key)}
	owner := r.Owner(render.FrontendOf(key))
	i := slices.IndexFunc(u.Services, func(s render.Service) bool { return s.ServiceName == owner })
	if i < 0 || owner == (render.ServiceName{}) {
		x.refused(u, e.To.Address)
		return x
	}
	x.Service = owner.String()
	at := netip.AddrPortFrom(e.To.Address, e.To.Port)
	if kind, port, ok := reachedAt(u.Node, u.Services[i], at, protocol); ok {
		x.judge(u.Node, u.Services[i], port, kind, e)
	}
	return x
}

// refused says so if Services name the address in vain.
func (x *Expectation) refused(u render.Update, addr netip.Addr) {
	for _, s := range u.Services {
		for _, r := range render.DisallowedAddressesOf(u.Node, s) {
			if slices.Contains(r.Addresses, addr) {
				x.Why = render.Reason(fmt.Sprintf("Service %s names this address in %s, and this node is set to refuse it", s.ServiceName, r.Field()))
				return
			}
		}
	}
}

// reachedAt finds the port that is reached at a frontend: the first, as PartOf has it.
func reachedAt(n render.Node, s render.Service, at netip.AddrPort, protocol nft.Protocol) (kind render.Kind, port render.Port, found bool) {
	for _, p := range s.Ports {
		if p.Protocol != protocol {
			continue
		}
		p.Frontends(n, s, func(k render.Kind, frontend netip.AddrPort) {
			if frontend == at && !found {
				kind, port, found = k, p, true
			}
		})
	}
	return kind, port, found
}

// judge says of every endpoint of a port why it is chosen or not.
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

// drift counts the changes that are left to do. That chains of endpoint counts are left which nobody has any more is none.
func drift(changes []nft.Change, frontend nft.Value) Drift {
	var d Drift
	for _, c := range render.WithoutUnusedChains(changes) {
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
			return render.Family(frontend[:len(frontend)-3].Addr()) == list.Set.Table.Family && strings.HasPrefix(string(e.Key), string(frontend))
		})
	}
	return d
}
