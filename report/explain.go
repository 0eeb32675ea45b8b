package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
	"nfproxy/render"
)

// Query is the connection to explain.
type Query struct {
	// Packet is the first packet of the connection. Explain sets its Draw.
	Packet nft.Packet // of a Service's protocol, or a ping with port 0
	// SourceWhy, if not empty, says how the source was chosen. Otherwise Explain says how the tables classify it.
	SourceWhy string
	// Remarks become Problems of the Explanation.
	Remarks []string
	// Desired, if not nil, is the desired state to compare the tables with.
	Desired *render.Update
}

// Explanation is what becomes of connections from one source to one address and port, and why, according to the tables.
// Its JSON form is what `nfproxy explain -o json` prints; docs/explain.md documents the fields.
type Explanation struct {
	From    Source       `json:"from"`
	To      Destination  `json:"to"`
	Service *ReachedPort `json:"service,omitempty"`
	Outcome Outcome      `json:"outcome"`
	// Answer is how a connection is refused: "reset" or "unreachable".
	Answer string          `json:"answer,omitempty"`
	Why    []render.Reason `json:"why"`
	// Endpoints are those that a connection can be sent to. Their chances add up to 1, unless Problems say otherwise.
	Endpoints []Candidate `json:"endpoints"`
	Affinity  *Affinity   `json:"affinity,omitempty"`
	// Rules are the rules that a connection passes, to the first of Endpoints if there are several.
	Rules    []Rule   `json:"rules"`
	Problems []string `json:"problems,omitempty"`
	// Expected is what the desired state says about the connection, nil if the Query has none.
	Expected *Expectation `json:"expected,omitempty"`

	// paths are the ways of connections through the table: one to each of Endpoints, or one if there are none.
	paths []nft.Path
}

// Outcome is the end of a connection in one word.
type Outcome string

// The outcomes. Untouched connections do not concern nfproxy.
const (
	Sent      Outcome = "sent"
	Refused   Outcome = "refused"
	Dropped   Outcome = "dropped"
	Untouched Outcome = "untouched"
	Answered  Outcome = "answered" // by this node: a ping
)

// Origin classifies a source as the tables do.
type Origin string

// The origins: this node, a Pod of any node that the tables recognise as one, or neither.
const (
	ThisNode Origin = "node"
	Pod      Origin = "pod"
	Outsider Origin = "outsider"
)

// Source is the source of the connections. Why says how it is classified, or how it was chosen.
type Source struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface,omitempty"`
	Origin    Origin     `json:"origin"`
	Why       string     `json:"why"`
}

// Destination is the destination of the connections before translation.
type Destination struct {
	Address  netip.Addr `json:"address"`
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"`
}

// ReachedPort is the Service port that has the destination as a frontend.
type ReachedPort struct {
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	Port      string      `json:"port,omitempty"`
	Kind      render.Kind `json:"kind,omitempty"`
	Action    string      `json:"action"`
	// Also lists the other frontends of the Service port in the same address family.
	Also []OtherFrontend `json:"also,omitempty"`
}

// OtherFrontend is another frontend of the same Service port.
type OtherFrontend struct {
	Address netip.Addr  `json:"address"`
	Port    uint16      `json:"port"`
	Kind    render.Kind `json:"kind,omitempty"`
}

// Candidate is an endpoint that a connection can be sent to: Draws of Of equally likely slots hold it.
type Candidate struct {
	Address     netip.Addr `json:"address"`
	Port        uint16     `json:"port"`
	Local       bool       `json:"local"`
	Draws       int        `json:"draws"`
	Of          int        `json:"of"`
	Chance      float64    `json:"chance"`
	Masqueraded bool       `json:"masqueraded"`
	// MasqueradeWhy says why the source is masqueraded or not.
	MasqueradeWhy render.Reason `json:"masqueradeWhy"`
}

// Rule is a rule that a connection passes.
type Rule struct {
	Chain  string `json:"chain"`
	Rule   string `json:"rule"`
	Result string `json:"result"`
}

// Explain simulates the connection in the table of its address family. Without such a table the connection is Untouched.
func Explain(tables []*nft.Table, q Query) Explanation {
	p := q.Packet
	e := Explanation{To: Destination{p.Destination.Addr(), p.Destination.Port(), strings.ToUpper(p.Protocol.String())},
		Outcome: Untouched, Endpoints: []Candidate{}, Rules: []Rule{}, Why: []render.Reason{}}
	x := explainer{packet: p, schema: render.SchemaOf(render.Family(p.Destination.Addr())), Explanation: &e}
	x.table = &nft.Table{TableID: x.schema.Table}
	x.key = nft.Addr(p.Destination.Addr()) + nft.Proto(p.Protocol) + nft.Port(p.Destination.Port())
	i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.Family == x.schema.Table.Family })
	if i >= 0 {
		x.table = tables[i]
		x.service()
		x.walk()
	} else {
		e.Why = append(e.Why, NoTable)
	}
	x.source(q.SourceWhy)
	e.Problems = append(e.Problems, q.Remarks...)
	if q.Desired != nil {
		expected := expect(*q.Desired, tables, e, p.Local != nil && p.Local(p.Destination.Addr()))
		e.Expected = &expected
	}
	return e
}

// explainer fills in an Explanation.
type explainer struct {
	table  *nft.Table // of the destination's family, empty if there is none
	schema *render.Schema
	packet nft.Packet
	key    nft.Value // of the destination in the services map
	*Explanation
}

// service fills in the Service port that has the destination.
func (x *explainer) service() {
	element := find(x.table, x.schema.Services, x.key)
	if element.Key == "" {
		return
	}
	name, port, ok := render.ParseLabel(element.Comment)
	if !ok {
		x.Problems = append(x.Problems, fmt.Sprintf("the frontend's comment %q names no Service", element.Comment))
		name, port = render.ServiceName{}, ""
	}
	f := describeFrontend(x.table, element, nft.Addr(x.To.Address), nft.Port(x.To.Port))
	x.Service = &ReachedPort{name.Namespace, name.Name, port, f.Kind, f.Action, x.also(element)}
}

// also lists the other frontends of the Service port of one frontend.
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

// source fills in the source. why, if not empty, replaces the reason for its classification.
func (x *explainer) source(why string) {
	x.From = Source{Address: x.packet.Source.Addr(), Interface: x.packet.Interface}
	x.From.Origin, x.From.Why = x.origin()
	if why != "" {
		x.From.Why = why
	}
}

// maxSimulatedSteps limits the rules that all simulations of one packet pass together. It is several times what the largest
// number of endpoints needs.
const maxSimulatedSteps = 1 << 21

// walk simulates the packet for every random number that the kernel could draw.
func (x *explainer) walk() {
	branches := nft.SimulateAll(x.table, x.packet, maxSimulatedSteps)
	if branches.Simulated < branches.Choices {
		x.Problems = append(x.Problems, fmt.Sprintf("only %d of %d draws were simulated", branches.Simulated, branches.Choices))
	}
	shown, lost := branches.Ends[0].Path, 0.0
	for _, end := range branches.Ends {
		if to := end.Path.To(x.packet.Destination); to.IsValid() {
			x.candidate(to, end, branches.Found)
		} else {
			lost += end.Chance
		}
	}
	slices.SortFunc(x.Endpoints, func(a, b Candidate) int { return a.at().Compare(b.at()) })
	if lost > 0 && len(x.Endpoints) > 0 {
		x.Problems = append(x.Problems, fmt.Sprintf("%.4g %% of the connections find no endpoint: the tables are incomplete", 100*lost))
	}
	if len(x.Endpoints) > 0 {
		x.paths = pathsTo(x.Endpoints, branches.Ends, x.packet.Destination)
		shown = x.paths[0]
	} else {
		x.paths = []nft.Path{shown}
	}
	x.checkSlots(shown)
	x.conclude(shown)
}

// pathsTo returns the path to each endpoint of connections to a destination.
func pathsTo(endpoints []Candidate, ends []nft.Branch, destination netip.AddrPort) []nft.Path {
	to := make(map[netip.AddrPort]nft.Path)
	for _, end := range ends {
		to[end.Path.To(destination)] = end.Path
	}
	paths := make([]nft.Path, len(endpoints))
	for i, c := range endpoints {
		paths[i] = to[c.at()]
	}
	return paths
}

// checkSlots adds a problem if the slots of the endpoints have a gap: packets that draw the missing slot draw again, so that the
// connections are served, but not by the endpoint that was there.
func (x *explainer) checkSlots(path nft.Path) {
	for _, s := range path.Steps {
		b, ok := render.BalancingChainOf(x.table.Family, s.Then)
		if !ok {
			continue
		}
		slots := x.schema.Endpoints
		if b.Local {
			slots = x.schema.LocalEndpoints
		}
		have := x.table.Set(slots.Name)
		if have == nil {
			continue
		}
		for i, e := range render.SlotsOf(have.Elements, x.key) {
			if slot := int(e.Key[len(x.key):].Uint16()); slot != i {
				x.Problems = append(x.Problems, fmt.Sprintf("slot %d of the frontend in %s is missing: the tables are incomplete", i, slots.Name))
				return
			}
		}
	}
}

func (c Candidate) at() netip.AddrPort { return netip.AddrPortFrom(c.Address, c.Port) }

// candidate adds the endpoint at the end of a branch. Of the draws, of find an endpoint.
func (x *explainer) candidate(to netip.AddrPort, end nft.Branch, of int) {
	x.Endpoints = append(x.Endpoints, Candidate{Address: to.Addr(), Port: to.Port(),
		Local: holds(x.table, x.schema.Hairpin, nft.Addr(to.Addr())+nft.Addr(to.Addr())),
		Draws: end.Draws, Of: of, Chance: end.Chance,
		Masqueraded: end.Path.Masqueraded, MasqueradeWhy: x.whyMasqueraded(end.Path)})
}

// conclude fills in the outcome, its reasons and the rules of the path that is shown.
func (x *explainer) conclude(path nft.Path) {
	switch {
	case len(x.Endpoints) > 0:
		x.Outcome = Sent
	case path.Outcome == nft.Dropped:
		x.Outcome = Dropped
	case path.Redirected && path.Outcome == nft.Accepted:
		x.Outcome = Answered
	case path.Outcome != nft.Accepted:
		x.Outcome, x.Answer = Refused, path.Outcome.String()
	}
	x.Affinity = x.affinity(path)
	x.Why = x.why(path)
	for _, s := range path.Steps {
		x.Rules = append(x.Rules, Rule{s.Chain, s.Rule, s.Result})
		if _, external := s.Matched.Do.(nft.Opaque); external {
			x.Problems = append(x.Problems, fmt.Sprintf("chain %q has a rule that nfproxy did not write; its effect is unknown", s.Chain))
		}
	}
	if path.Unfinished {
		x.Problems = append(x.Problems, "the simulation was cut short: the packet passes too many rules")
	}
}
