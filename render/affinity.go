package render

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"nfproxy/nft"
)

// DefaultAffinityClients is how many clients a Service port remembers per family where the Node says nothing else.
const DefaultAffinityClients = 1 << 16

// affinity is what one port of a Service with session affinity has of its own in one family: a map that remembers which
// endpoint a client was sent to, and the chains that look there first and that remember. With policy Local there is a
// second map: who may reach this node's endpoints alone must not be sent where the same client went by another way.
//
// Clients are remembered in postrouting, where the packet already carries the endpoint: whichever chain chose it, one
// rule learns it and lets it last, however many endpoints there are.
type affinity struct {
	schema  *Schema
	id      string // namespace/name/protocol/port
	timeout time.Duration
	match   nft.Match // the protocol: nft wants to know whose ports it prints
	fromPod nft.Match
	clients clientMap
	local   clientMap
	chains  []*nft.Chain
}

// clientMap is one of the maps and the endpoints that clients may be remembered for there.
type clientMap struct {
	set       *nft.Set
	endpoints []nft.Value
	used      bool
}

func newAffinity(sc *Schema, n Node, s Service, p Port, selected Selection) *affinity {
	port := p.Name
	if port == "" {
		port = fmt.Sprint(p.Port)
	}
	a := &affinity{schema: sc, id: fmt.Sprintf("%s/%s/%s", s.ServiceName, p.Protocol, port), timeout: s.Affinity,
		match: nft.OfProtocol{Protocol: p.Protocol}, fromPod: sc.fromPod(n, false)}
	clients := func(kind string) *nft.Set {
		addr := sc.Table.Family.AddrType()
		return &nft.Set{Table: sc.Table, Name: kind + "/" + a.id, Key: []nft.Type{addr},
			Data: []nft.Type{addr, nft.InetService}, Dynamic: true, Size: cmp.Or(n.AffinityClients, DefaultAffinityClients)}
	}
	a.clients = clientMap{set: clients("affinity"), endpoints: endpointValues(selected.Cluster)}
	a.local = clientMap{set: clients("affinity-local"), endpoints: endpointValues(selected.Local)}
	return a
}

// chain enters a chain of this port, once, and returns the verdict that goes there.
func (a *affinity) chain(kind string, rules ...nft.Rule) nft.Verdict {
	name := kind + "/" + a.id
	same := func(c *nft.Chain) bool { return c.Name == name }
	if !slices.ContainsFunc(a.chains, same) {
		a.chains = append(a.chains, a.schema.chain(name, rules...))
	}
	return nft.GotoChain(name)
}

// choose is the verdict that sends known clients where they were sent before, and others on.
func (a *affinity) lookup(balance nft.Verdict, local bool) nft.Verdict {
	kind, m := "affinity", &a.clients
	if local {
		kind, m = "affinity-local", &a.local
	}
	m.used = true
	return a.chain(kind, rule(nft.DNAT{Key: source, Map: m.set.Name}, a.match), rule(balance))
}

// remember is the verdict that remembers a client and then masquerades by the class of the frontend.
func (a *affinity) record(class string, local bool) nft.Verdict {
	masquerade := nft.GotoChain(class)
	switch {
	case class == MasqueradeNodeChain:
		// Policy Local: this node and its pods came by from-node, all others by from-outside.
		node := a.chain("remember-node", a.recordRules(&a.clients, masquerade)...)
		outside := []nft.Rule{rule(node, a.fromPod), rule(node, nft.FibSourceLocal{})}
		return a.chain("remember-outside", append(outside, a.recordRules(&a.local, masquerade)...)...)
	case class == MasqueradeAllChain:
		return a.chain("remember-external", a.recordRules(&a.clients, masquerade)...)
	case local:
		return a.chain("remember-local", a.recordRules(&a.local, masquerade)...)
	}
	return a.chain("remember", a.recordRules(&a.clients, masquerade)...)
}

// learn remembers a client and goes on. Clients for whom the map has no room are counted, and go on as well: they are
// balanced anew each time.
func (a *affinity) recordRules(m *clientMap, next nft.Verdict) []nft.Rule {
	m.used = true
	to := []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.DestinationPort}}
	return []nft.Rule{
		rule(nft.Update{Key: source, Data: to, Map: m.set.Name, Timeout: a.timeout, Then: next}),
		rule(next, nft.CounterStatement{}),
	}
}

// Own is what one Service alone has: maps of clients and the chains around them.
type DedicatedObjects struct {
	timeout time.Duration
	maps    []clientMap
	chains  []*nft.Chain
}

func dedicatedObjects(affinities []*affinity) *DedicatedObjects {
	if len(affinities) == 0 {
		return nil
	}
	o := &DedicatedObjects{timeout: affinities[0].timeout}
	for _, a := range affinities {
		for _, m := range []clientMap{a.clients, a.local} {
			if m.used {
				o.maps = append(o.maps, m)
			}
		}
		o.chains = append(o.chains, a.chains...)
	}
	slices.SortFunc(o.maps, func(a, b clientMap) int { return compareNames(a.set.Table, b.set.Table, a.set.Name, b.set.Name) })
	slices.SortFunc(o.chains, func(a, b *nft.Chain) int { return compareNames(a.Table, b.Table, a.Name, b.Name) })
	return o
}

func compareNames(a, b nft.TableID, nameA, nameB string) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(nameA, nameB))
}

// table is what Own has in a table.
func (o *DedicatedObjects) table(id nft.TableID) *nft.Table {
	t := &nft.Table{TableID: id}
	if o == nil {
		return t
	}
	for _, m := range o.maps {
		if m.set.Table == id {
			t.Sets = append(t.Sets, m.set)
		}
	}
	for _, c := range o.chains {
		if c.Table == id {
			t.Chains = append(t.Chains, c)
		}
	}
	return t
}

// forget lists the changes of what is remembered: endpoints that were in old and are no more are forgotten, and another
// timeout counts for all clients at once.
func (o *DedicatedObjects) dynamicChanges(old *DedicatedObjects) []nft.Change {
	if o == nil || old == nil {
		return nil
	}
	var changes []nft.Change
	for _, m := range o.maps {
		for _, before := range old.maps {
			if before.set.Table != m.set.Table || before.set.Name != m.set.Name {
				continue
			}
			changes = append(changes, o.mapChanges(m, before.endpoints, old.timeout)...)
		}
	}
	return changes
}

// relearn is what forget does for one map.
func (o *DedicatedObjects) mapChanges(m clientMap, remembered []nft.Value, timeout time.Duration) []nft.Change {
	var changes []nft.Change
	if gone := without(remembered, m.endpoints); len(gone) > 0 {
		changes = append(changes, nft.Change{Op: nft.Delete, Object: nft.DynamicElements{Set: m.set, Data: gone}})
	}
	if timeout != o.timeout && timeout > 0 {
		changes = append(changes, nft.Change{Op: nft.Replace, Object: nft.DynamicElements{Set: m.set, Timeout: o.timeout}})
	}
	return changes
}

// staleElements does the same for the elements that tables have from an earlier run or another program.
func (o *DedicatedObjects) staleElements(tables []*nft.Table) []nft.Change {
	if o == nil {
		return nil
	}
	var changes []nft.Change
	for _, t := range tables {
		for _, m := range o.maps {
			have := t.Set(m.set.Name)
			if t.TableID != m.set.Table || have == nil {
				continue
			}
			var remembered []nft.Value
			for _, e := range have.Elements {
				remembered = append(remembered, e.Data)
			}
			slices.Sort(remembered)
			changes = append(changes, o.mapChanges(m, slices.Compact(remembered), recordTimeout(t, m.set))...)
		}
	}
	return changes
}

// rememberedFor is the timeout of the rule that remembers clients in a map, 0 if there is none.
func recordTimeout(t *nft.Table, m *nft.Set) time.Duration {
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			if remember, ok := r.Do.(nft.Update); ok && remember.Map == m.Name {
				return remember.Timeout
			}
		}
	}
	return 0
}
