package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"

	"nfproxy/render"
)

// Explanation is what becomes of the connections from one source to one address, and why, as far as the tables tell. Its
// JSON form is what `nfproxy explain -o json` prints; docs/explain.md has the fields.
type Explanation struct {
	From    Source       `json:"from"`
	To      Destination  `json:"to"`
	Service *ReachedPort `json:"service,omitempty"`
	Outcome Outcome      `json:"outcome"`
	// Answer is what who is refused gets: reset or unreachable.
	Answer string          `json:"answer,omitempty"`
	Why    []render.Reason `json:"why"`
	// Endpoints are those a connection can be sent to. Their chances make 1, unless Problems say otherwise.
	Endpoints []Candidate `json:"endpoints"`
	Affinity  *Affinity   `json:"affinity,omitempty"`
	// Rules are those a connection passes; if there are several Endpoints, one to the first of them.
	Rules    []Rule   `json:"rules"`
	Problems []string `json:"problems,omitempty"`
	// Expected is what a source of Services says of the same, nil if none was asked.
	Expected *Expectation `json:"expected,omitempty"`
}

// Outcome is how connections end, in a word.
type Outcome string

// The outcomes. Untouched is what has nothing to do with Services.
const (
	Sent      Outcome = "sent"
	Refused   Outcome = "refused"
	Dropped   Outcome = "dropped"
	Untouched Outcome = "untouched"
)

// Origin is what a source is to the node.
type Origin string

// The origins. Pod means one that the node takes for a pod.
const (
	ThisNode Origin = "node"
	Pod      Origin = "pod"
	Outsider Origin = "outsider"
)

// ExplainedSource is where the connections come from.
type Source struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface,omitempty"`
	Origin    Origin     `json:"origin"`
	Why       string     `json:"why"`
}

// ExplainedTarget is where they go.
type Destination struct {
	Address  netip.Addr `json:"address"`
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"`
}

// ExplainedService is the Service port that is reached there.
type ReachedPort struct {
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	Port      string      `json:"port,omitempty"`
	Kind      render.Kind `json:"kind,omitempty"`
	Action    string      `json:"action"`
	// Also are the other addresses and ports of the family it is reached at.
	Also []OtherFrontend `json:"also,omitempty"`
}

// OtherFrontend is another address and port of the same Service port.
type OtherFrontend struct {
	Address netip.Addr  `json:"address"`
	Port    uint16      `json:"port"`
	Kind    render.Kind `json:"kind,omitempty"`
}

// Candidate is an endpoint that a connection can be sent to: Draws of Of equally likely numbers lead there.
type Candidate struct {
	Address     netip.Addr `json:"address"`
	Port        uint16     `json:"port"`
	Local       bool       `json:"local"`
	Draws       int        `json:"draws"`
	Of          int        `json:"of"`
	Chance      float64    `json:"chance"`
	Masqueraded bool       `json:"masqueraded"`
	// MasqueradeWhy says why its source is replaced or kept.
	MasqueradeWhy render.Reason `json:"masqueradeWhy"`
}

// ExplainedRule is one rule that a connection passes.
type Rule struct {
	Chain  string `json:"chain"`
	Rule   string `json:"rule"`
	Result string `json:"result"`
}

// Explain says what becomes of connections whose first packet is p, by the table of its family. A packet of another family
// than all tables is untouched.
func Explain(tables []*nft.Table, p nft.Packet) Explanation {
	e := Explanation{To: Destination{p.Destination.Addr(), p.Destination.Port(), strings.ToUpper(p.Protocol.String())},
		Outcome: Untouched, Endpoints: []Candidate{}, Rules: []Rule{}, Why: []render.Reason{},
		From: Source{Address: p.Source.Addr(), Interface: p.Interface, Origin: Outsider}}
	i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.Family == render.Family(p.Destination.Addr()) })
	if i < 0 {
		e.Why = append(e.Why, NoTable)
		return e
	}
	x := explainer{table: tables[i], schema: render.SchemaOf(tables[i].Family), packet: p, Explanation: &e}
	x.key = nft.Addr(p.Destination.Addr()) + nft.Proto(p.Protocol) + nft.Port(p.Destination.Port())
	e.From.Origin, e.From.Why = x.origin()
	x.service()
	x.walk()
	return e
}

// explainer fills in an Explanation.
type explainer struct {
	table  *nft.Table
	schema *render.Schema
	packet nft.Packet
	key    nft.Value // of the frontend, if there is one
	*Explanation
}

// service fills in whose the address and port are.
func (x *explainer) service() {
	element := find(x.table, x.schema.Services, x.key)
	if element.Key == "" {
		return
	}
	name, port, ok := render.ParseLabel(element.Comment)
	if !ok {
		x.Problems = append(x.Problems, fmt.Sprintf("the frontend's comment is %q, which names no Service", element.Comment))
		name, port = render.ServiceName{}, ""
	}
	f := describeFrontend(x.table, element, nft.Addr(x.To.Address), nft.Port(x.To.Port))
	x.Service = &ReachedPort{name.Namespace, name.Name, port, f.Kind, f.Action, x.also(element)}
}

// also lists the other frontends of the port that has this one.
func (x *explainer) also(one nft.Element) []OtherFrontend {
	var others []OtherFrontend
	services := x.table.Set(x.schema.Services.Name)
	for _, e := range services.Elements {
		f := e.Key.Fields(x.schema.Services.Key)
		if e.Comment != one.Comment || e.Key == one.Key || f == nil || f[1].Proto() != x.packet.Protocol {
			continue
		}
		others = append(others, OtherFrontend{f[0].Addr(), f[2].Uint16(), describeKind(x.table, e.Key)})
	}
	return others
}

// way is the way to one destination: how many draws lead there, and one of them.
type way struct {
	draws int
	draw  uint32
}

// maxWalked is how many rules are followed over all draws: several times what the most endpoints take.
const maxWalked = 1 << 21

// walk follows the packet for every draw there is.
func (x *explainer) walk() {
	p, draws, walked := x.packet, uint32(1), 0
	ways := make(map[netip.AddrPort]way) // by where they lead, the zero value for nowhere
	for ; p.Draw < draws; p.Draw++ {
		path := nft.Simulate(x.table, p)
		if draws = max(draws, path.Choices); walked > maxWalked {
			x.Problems = append(x.Problems, fmt.Sprintf("of %d draws only %d were followed", draws, p.Draw+1))
			draws = p.Draw + 1
		}
		walked += len(path.Steps)
		to := path.Destination
		if path.Outcome != nft.Accepted || to == p.Destination {
			to = netip.AddrPort{}
		}
		w, known := ways[to]
		if !known {
			w.draw = p.Draw
			x.candidate(to, path)
		}
		w.draws++
		ways[to] = w
	}
	for i := range x.Endpoints {
		c := &x.Endpoints[i]
		c.Draws, c.Of = ways[c.at()].draws, int(draws)
		c.Chance = float64(c.Draws) / float64(draws)
	}
	slices.SortFunc(x.Endpoints, func(a, b Candidate) int { return a.at().Compare(b.at()) })
	if lost := ways[netip.AddrPort{}].draws; lost > 0 && len(x.Endpoints) > 0 {
		x.Problems = append(x.Problems, fmt.Sprintf("%d of %d draws lead to no endpoint: the tables are not complete", lost, draws))
	}
	var shown netip.AddrPort
	if len(x.Endpoints) > 0 {
		shown = x.Endpoints[0].at()
	}
	p.Draw = ways[shown].draw
	x.conclude(nft.Simulate(x.table, p))
}

func (c Candidate) at() netip.AddrPort { return netip.AddrPortFrom(c.Address, c.Port) }

// candidate enters an endpoint, if the way leads to one.
func (x *explainer) candidate(to netip.AddrPort, path nft.Path) {
	if !to.IsValid() {
		return
	}
	x.Endpoints = append(x.Endpoints, Candidate{Address: to.Addr(), Port: to.Port(),
		Local:       holds(x.table, x.schema.Hairpin, nft.Addr(to.Addr())+nft.Addr(to.Addr())),
		Masqueraded: path.Masqueraded, MasqueradeWhy: x.whyMasqueraded(path)})
}

// conclude fills in what follows from the way that is shown.
func (x *explainer) conclude(way nft.Path) {
	switch {
	case len(x.Endpoints) > 0:
		x.Outcome = Sent
	case way.Outcome == nft.Dropped:
		x.Outcome = Dropped
	case way.Outcome != nft.Accepted:
		x.Outcome, x.Answer = Refused, way.Outcome.String()
	}
	x.Affinity = x.affinity(way)
	x.Why = x.why(way)
	for _, s := range way.Steps {
		x.Rules = append(x.Rules, Rule{s.Chain, s.Rule, s.Result})
		if _, foreign := s.Matched.Do.(nft.Opaque); foreign {
			x.Problems = append(x.Problems, fmt.Sprintf("chain %q has a rule that nfproxy did not make; what it does is not known", s.Chain))
		}
	}
	if way.Unfinished {
		x.Problems = append(x.Problems, "there are more rules than a packet is followed through")
	}
}
