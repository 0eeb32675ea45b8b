package report

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
	"nfproxy/render"
)

// NoTablesError returns the error of commands that need the tables of an instance where there are none.
func NoTablesError(i render.Instance) error {
	if i.Name() == "" {
		return errors.New("this network namespace has no nfproxy tables")
	}
	return fmt.Errorf("this network namespace has no nfproxy tables of the service proxy name %s", i.Name())
}

// Description is the tables in terms of Services. Its JSON form is what `nfproxy dump -o json` prints. Fields that the
// tables do not determine are left out, never guessed.
type Description struct {
	Tables   []Table       `json:"tables"`
	Services []ServicePort `json:"services"`
}

// Table is one table. Schema is 0 if the table's comment has no schema version.
type Table struct {
	Family string `json:"family"`
	Schema int    `json:"schema"`
	// UnservedPorts is "refuse" or "drop": what the table does with packets to ports of external IPs and load balancer addresses that
	// no Service has. It is empty if they pass.
	UnservedPorts string `json:"unservedPorts,omitempty"`
	// AnswersPing reports that addresses of Services answer pings.
	AnswersPing bool `json:"answersPing,omitempty"`
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Port      string     `json:"port,omitempty"`
	Protocol  string     `json:"protocol"`
	Frontends []Frontend `json:"frontends"`
}

// Frontend is an address and port of a Service, and what becomes of connections to it.
type Frontend struct {
	Address         netip.Addr  `json:"address"`
	Port            uint16      `json:"port"`
	Kind            render.Kind `json:"kind,omitempty"`
	Action          string      `json:"action"`
	AffinitySeconds int         `json:"affinitySeconds"`
	// Limits is nil for a frontend without limits.
	Limits *Limits `json:"limits,omitempty"`
	// HashOn is "client" or "connection" if the endpoint follows from a hash of these, with lb-algorithm maglev.
	HashOn      string  `json:"hashOn,omitempty"`
	Connections *uint64 `json:"connections,omitempty"`
	// Dropped counts the Connections that loadBalancerSourceRanges or externalTrafficPolicy Local did not admit.
	Dropped   *uint64    `json:"dropped,omitempty"`
	Endpoints []Endpoint `json:"endpoints"`
	// LocalEndpoints serve connections that come neither from this node nor from Pods; nil unless externalTrafficPolicy is
	// Local.
	LocalEndpoints *[]Endpoint `json:"localEndpoints,omitempty"`
}

// Endpoint is one endpoint of a frontend.
type Endpoint struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Local   bool       `json:"local"`
	// Weight is the number of slots, 0 if it is one.
	Weight      int     `json:"weight,omitempty"`
	Connections *uint64 `json:"connections,omitempty"`
}

// String returns ADDRESS:PORT.
func (e Endpoint) String() string { return netip.AddrPortFrom(e.Address, e.Port).String() }

// Describe reads back tables as they are in the kernel. They must be of this version's schema.
func Describe(tables []*nft.Table) Description {
	d := Description{Tables: []Table{}}
	frontends := []ServicePort{} // with one frontend each
	for _, t := range tables {
		dt := Table{Family: t.Family.String(), UnservedPorts: describeUnserved(t), AnswersPing: answersPing(t)}
		fmt.Sscanf(t.Comment, "nfproxy schema %d", &dt.Schema)
		d.Tables = append(d.Tables, dt)
		frontends = append(frontends, describeTable(t)...)
	}
	slices.SortFunc(frontends, func(a, b ServicePort) int {
		if c := comparePorts(&a, &b); c != 0 {
			return c
		}
		x, y := &a.Frontends[0], &b.Frontends[0]
		return cmp.Or(x.Address.Compare(y.Address), cmp.Compare(x.Port, y.Port))
	})
	d.Services = frontends[:0]
	for _, f := range frontends {
		if last := len(d.Services) - 1; last >= 0 && comparePorts(&d.Services[last], &f) == 0 {
			d.Services[last].Frontends = append(d.Services[last].Frontends, f.Frontends...)
		} else {
			d.Services = append(d.Services, f)
		}
	}
	return d
}

// describeUnserved returns the action of the table for unserved ports, empty if it has no rule for them.
func describeUnserved(t *nft.Table) string {
	c := t.Chain(render.UnservedReceivedChain)
	if c == nil || len(c.Rules) == 0 {
		return ""
	}
	switch do := c.Rules[0].Do.(type) {
	case nft.Verdict:
		return describeAction(do)
	case nft.VerdictMap:
		return render.RefuseUnserved.String()
	}
	return "" // a rule of another program
}

// answersPing reports whether the table has a rule that answers pings.
func answersPing(t *nft.Table) bool {
	c := t.Chain(render.DispatchChain)
	return c != nil && slices.ContainsFunc(c.Rules, func(r nft.Rule) bool { return r.Do == nft.Redirect{} })
}

// comparePorts orders Service ports by namespace, name, port and protocol. Most differ in the name.
func comparePorts(a, b *ServicePort) int {
	if c := cmp.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// Slots returns a function that returns the keys of the endpoint slots that Describe needs for some elements of one of
// DescribedSets: for every frontend among them, the slots from which its balancing chain draws. Those from the number of endpoints on
// do not exist.
func Slots(i render.Instance) func(t *nft.Table, s *nft.Set, part []nft.Element) []nft.Elements {
	return func(t *nft.Table, s *nft.Set, part []nft.Element) []nft.Elements {
		return slotsOf(i.SchemaOf(t.Family), t, s, part)
	}
}

func slotsOf(sc *render.Schema, t *nft.Table, s *nft.Set, part []nft.Element) []nft.Elements {
	if !s.IsVerdictMap() || !slices.Equal(s.Key, sc.Services.Key) {
		return nil
	}
	cluster, local := nft.Elements{Set: sc.Endpoints, List: make([]nft.Element, 0, len(part))}, nft.Elements{Set: sc.LocalEndpoints}
	for _, e := range part {
		b, ok := render.BalancingChainOf(t.Family, pastAffinity(t, e.Data.Verdict()))
		to := &cluster
		if b.Local {
			to = &local
		}
		for slot := range b.Size {
			if ok && e.Key != "" {
				to.List = append(to.List, nft.Element{Key: e.Key + nft.Slot(uint16(slot))})
			}
		}
	}
	return []nft.Elements{cluster, local}
}

// SlotSets returns the sets to whose elements Slots leads.
func SlotSets(i render.Instance) []*nft.Set {
	var all []*nft.Set
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		sc := i.SchemaOf(f)
		all = append(all, sc.Endpoints, sc.LocalEndpoints)
	}
	return all
}

// describeTable returns the frontends of a table, each as a ServicePort of its own.
func describeTable(t *nft.Table) []ServicePort {
	sc := render.SchemaOf(t.Family)
	services := t.Set(sc.Services.Name)
	if services == nil {
		return nil
	}
	frontends := make([]ServicePort, 0, len(services.Elements))
	for _, e := range services.Elements {
		fields := e.Key.Fields(services.Key)
		name, port, ok := render.ParseLabel(e.Comment)
		if !ok || len(fields) != 3 {
			continue
		}
		frontends = append(frontends, ServicePort{name.Namespace, name.Name, port,
			strings.ToUpper(fields[1].Proto().String()), []Frontend{describeFrontend(t, e, fields[0], fields[2])}})
	}
	return frontends
}

func describeFrontend(t *nft.Table, e nft.Element, addr, port nft.Value) Frontend {
	sc := render.SchemaOf(t.Family)
	f := Frontend{Address: addr.Addr(), Port: port.Uint16(), Kind: describeKind(t, e.Key),
		Endpoints: []Endpoint{}}
	if e.Counter != nil {
		f.Connections = &e.Counter.Packets
	}
	verdict := e.Data.Verdict()
	if verdict == nft.GotoChain(render.SourceRangesChain) {
		admitted := find(t, sc.Admitted, e.Key)
		f.Dropped = difference(e.Counter, admitted.Counter)
		verdict = admitted.Data.Verdict()
	}
	f.Limits, verdict = describeLimits(t, e.Key, verdict)
	if verdict == nft.GotoChain(render.ExternalLocalChain) {
		local := describeSlots(t, sc.LocalEndpoints, e.Key)
		f.LocalEndpoints = &local
		fromNode := find(t, sc.FromNode, e.Key)
		f.Dropped = difference(e.Counter, fromNode.Counter, find(t, sc.FromOutside, e.Key).Counter, find(t, sc.OverLimit, e.Key).Counter)
		verdict = fromNode.Data.Verdict()
	}
	verdict = pastAffinity(t, verdict)
	b, ok := render.BalancingChainOf(t.Family, verdict)
	f.HashOn = b.Hashing.String()
	if ok && b.Local {
		f.Endpoints = describeSlots(t, sc.LocalEndpoints, e.Key)
	} else if ok {
		f.Endpoints = describeSlots(t, sc.Endpoints, e.Key)
	}
	if f.HashOn != "" { // slots have no order that means anything
		slices.SortFunc(f.Endpoints, func(a, b Endpoint) int { return a.Address.Compare(b.Address) })
	}
	f.Action, f.AffinitySeconds = describeAction(verdict), affinitySeconds(t, find(t, sc.Connections, e.Key).Data.Verdict())
	return f
}

// difference is what the counter all has more than its parts together, nil without counters. It is never negative, although
// the counters are not read at the same moment.
func difference(all *nft.Counter, parts ...*nft.Counter) *uint64 {
	if all == nil {
		return nil
	}
	rest := all.Packets
	for _, p := range parts {
		if p != nil {
			rest -= min(rest, p.Packets)
		}
	}
	return &rest
}

// pastAffinity is where a verdict leads clients that session affinity does not remember.
func pastAffinity(t *nft.Table, v nft.Verdict) nft.Verdict {
	c := t.Chain(v.Chain)
	if c == nil || render.DedicatedName(c.Name) == "" || len(c.Rules) == 0 {
		return v
	}
	last, _ := c.Rules[len(c.Rules)-1].Do.(nft.Verdict)
	return last
}

// affinitySeconds is how long the chain of a verdict remembers clients, 0 without session affinity.
func affinitySeconds(t *nft.Table, v nft.Verdict) int {
	if c := t.Chain(v.Chain); c != nil {
		for _, r := range c.Rules {
			if remember, ok := r.Do.(nft.Update); ok {
				return int(remember.Timeout.Seconds())
			}
		}
	}
	return 0
}

// describeKind returns the kind of a frontend, empty in a table without a connections map.
func describeKind(t *nft.Table, frontend nft.Value) render.Kind {
	connections := t.Set(render.SchemaOf(t.Family).Connections.Name)
	if connections == nil {
		return ""
	}
	e, _ := connections.Lookup(frontend)
	return render.KindOf(e.Comment)
}

// describeSlots lists the endpoints of a frontend in an endpoints map, each once, in order of their first slots.
func describeSlots(t *nft.Table, slots *nft.Set, key nft.Value) []Endpoint {
	endpoints := []Endpoint{}
	s := t.Set(slots.Name)
	if s == nil {
		return endpoints
	}
	index := make(map[nft.Value]int) // in endpoints
	for _, slot := range render.SlotsOf(s.Elements, key) {
		to := slot.Data.Fields(slots.Data)
		if len(to) != 2 {
			continue
		}
		if i, known := index[slot.Data]; known {
			endpoints[i].addSlot(slot.Counter)
			continue
		}
		index[slot.Data] = len(endpoints)
		d := Endpoint{Address: to[0].Addr(), Port: to[1].Uint16(),
			Local: holds(t, render.SchemaOf(t.Family).Hairpin, to[0]+to[0])}
		if slot.Counter != nil {
			d.Connections = &slot.Counter.Packets
		}
		endpoints = append(endpoints, d)
	}
	return endpoints
}

// addSlot adds one more slot to an endpoint, and its counter.
func (e *Endpoint) addSlot(c *nft.Counter) {
	e.Weight = max(e.Weight, 1) + 1
	if c != nil && e.Connections != nil {
		total := *e.Connections + c.Packets
		e.Connections = &total
	}
}

func describeAction(v nft.Verdict) string {
	if _, ok := render.BalancingChainOf(nft.IPv4, v); ok {
		return "balance"
	}
	switch v {
	case nft.GotoChain(render.RefuseChain):
		return "refuse"
	case nft.Verdict{Kind: nft.Drop}:
		return "drop"
	}
	return v.String()
}

// find looks up a key in the table's set of the same name. It returns the zero Element if the set or the key is missing.
func find(t *nft.Table, declaration *nft.Set, key nft.Value) nft.Element {
	if s := t.Set(declaration.Name); s != nil {
		e, _ := s.Lookup(key)
		return e
	}
	return nft.Element{}
}

func holds(t *nft.Table, declaration *nft.Set, key nft.Value) bool {
	return find(t, declaration, key).Key == key
}

// DescribedSets returns the names of the sets that Describe needs besides Slots.
func DescribedSets() []string {
	return append(CountedSets(render.CountServices), render.SchemaOf(nft.IPv4).Hairpin.Name)
}

// CountedSets returns the names of the sets that Describe needs to report the connections counted.
func CountedSets(by render.Counters) []string {
	sc := render.SchemaOf(nft.IPv4) // the names are the same in both families
	sets := []*nft.Set{sc.Services, sc.Connections, sc.Admitted, sc.Rates, sc.OverLimit, sc.WithinLimit, sc.FromNode, sc.FromOutside}
	if by == render.CountEndpoints {
		sets = append(sets, sc.Endpoints, sc.LocalEndpoints, sc.Hairpin)
	}
	var names []string
	for _, s := range sets {
		names = append(names, s.Name)
	}
	return names
}
