package render

import (
	"cmp"
	"slices"
	"time"

	"nfproxy/nft"
)

// DefaultAffinityClients is the default number of clients that a Service port remembers per family.
const DefaultAffinityClients = 1 << 16

// affinity builds the dedicated objects of one port of a Service with session affinity, in one family: a map from clients to
// the endpoints that they were sent to, a chain that looks clients up in it, and chains that record them. With policy Local there
// is a second map: a client that may reach only the endpoints of this node must not be sent to an endpoint that it reached
// another way.
//
// Clients are recorded where the packet leaves, when it already has the endpoint's address: in postrouting, or in input if the
// endpoint is this node itself. One rule records a client and extends its timeout, whichever chain chose the endpoint and however
// many endpoints there are. Each connection is recorded in every map whose lookups may use its endpoint, so that a client meets
// one endpoint over all frontends that the endpoint may serve; and connections without restriction look clients up in both maps.
type affinity struct {
	schema  *Schema
	id      string // see affinityID
	timeout time.Duration
	match   nft.Match // of the protocol, which nft needs to print ports
	fromPod nft.Match
	clients clientMap
	local   clientMap
	records []record
	chains  []*nft.Chain
}

// clientMap is one of the maps, with the endpoints that its elements may name, as slots have them in order.
type clientMap struct {
	set       *nft.Set
	endpoints nft.Value
	used      bool
}

func (m clientMap) packed() packed { return packed{m.endpoints, dataWidth(m.set)} }

// record describes the chains that record the clients of some frontends.
type record struct {
	chains recordChains
	// action is that of the frontends: it decides which endpoints their connections can have.
	action Action
	// then is the verdict after a connection is recorded.
	then nft.Verdict
}

func newAffinity(n Node, s Service, p Port, f *portFamily) *affinity {
	sc := f.schema
	a := &affinity{schema: sc, id: affinityID(s.ServiceName, p), timeout: s.Affinity,
		match: nft.OfProtocol{Protocol: p.Protocol}, fromPod: sc.fromPod(n, false)}
	clients := func(object string) *nft.Set {
		addr := sc.Table.Family.AddrType()
		return &nft.Set{Table: sc.Table, Name: dedicatedName(object, a.id), Key: []nft.Type{addr},
			Data: []nft.Type{addr, nft.InetService}, Dynamic: true, Size: cmp.Or(n.AffinityClients, DefaultAffinityClients)}
	}
	a.clients = clientMap{set: clients(affinityObject), endpoints: f.cluster}
	a.local = clientMap{set: clients(affinityLocalObject), endpoints: f.local}
	return a
}

// chain adds a chain unless it exists, and returns the verdict that goes to it.
func (a *affinity) chain(object string, rules ...nft.Rule) nft.Verdict {
	name := dedicatedName(object, a.id)
	same := func(c *nft.Chain) bool { return c.Name == name }
	if !slices.ContainsFunc(a.chains, same) {
		a.chains = append(a.chains, a.schema.chain(name, rules...))
	}
	return nft.GotoChain(name)
}

// lookup returns the verdict that sends a recorded client to its endpoint, and any other client to the balancing chain.
func (a *affinity) lookup(balance nft.Verdict, local bool) nft.Verdict {
	object, m := affinityObject, &a.clients
	if local {
		object, m = affinityLocalObject, &a.local
	}
	m.used = true
	return a.chain(object, rule(nft.DNAT{Key: source, Map: m.set.Name}, a.match), rule(balance))
}

// recordLeaving returns the verdict that records the client of a connection that leaves this node and then goes to the chain of
// its masquerade class.
func (a *affinity) recordLeaving(class MasqueradeClass, action Action) nft.Verdict {
	chains := rememberChains
	switch {
	case class == MasqueradeNodeSource:
		chains = rememberSplitChains
	case class == MasqueradeAll:
		chains = rememberExternalChains
	case action == ToLocal:
		chains = rememberLocalChains
	}
	return a.record(record{chains, action, nft.GotoChain(class.chain())})
}

// recordDelivered returns the verdict that records the client of a connection to this node itself, which is never masqueraded.
func (a *affinity) recordDelivered(action Action) nft.Verdict {
	chains := learnChains
	switch action {
	case Split:
		chains = learnSplitChains
	case ToLocal:
		chains = learnLocalChains
	}
	return a.record(record{chains, action, nft.Verdict{Kind: nft.Accept}})
}

// record adds a record unless it exists, and returns the verdict that goes to its first chain.
func (a *affinity) record(r record) nft.Verdict {
	if !slices.ContainsFunc(a.records, func(have record) bool { return have.chains == r.chains }) {
		a.records = append(a.records, r)
	}
	return nft.GotoChain(dedicatedName(r.chains.first, a.id))
}

// addRecordChains adds the chains of all records, when every lookup is known.
func (a *affinity) addRecordChains() {
	for _, r := range a.records {
		switch {
		case r.action == ToLocal:
			a.chain(r.chains.first, a.recordRules(r.then, true)...)
		case r.action == Split && !a.localServesAll():
			// Connections from this node and its Pods used from-node, all others from-outside.
			node := a.chain(r.chains.fromNode, a.recordRules(r.then, false)...)
			outside := []nft.Rule{rule(node, a.fromPod), rule(node, nft.FibSourceLocal{})}
			a.chain(r.chains.first, append(outside, a.recordRules(r.then, true)...)...)
		default:
			a.chain(r.chains.first, a.recordRules(r.then, false)...)
		}
	}
}

// addLocalLookup makes connections without restriction look clients up in both maps, if every endpoint of the local one may serve
// them: a client may have lost the endpoint that it had by them, and have one by the other frontends. It is called when every
// lookup is known.
func (a *affinity) addLocalLookup() {
	if !a.local.used || !a.localServesAll() {
		return
	}
	for _, c := range a.chains {
		if c.Name == dedicatedName(affinityObject, a.id) {
			c.Rules = slices.Insert(c.Rules, 1, rule(nft.DNAT{Key: source, Map: a.local.set.Name}, a.match))
		}
	}
}

// localServesAll reports whether every endpoint that may serve connections that are restricted to this node may serve all others
// too. It may not if it is terminating, or excluded by topology hints, while others are ready.
func (a *affinity) localServesAll() bool {
	others, _ := differences(a.local.packed(), a.clients.packed())
	return len(others) == 0
}

// recordRules returns the rules that record a client and continue with a verdict. With local, the endpoint is known to be one of
// a.local; otherwise it is one of a.clients, and one of a.local if it is on this node. If a map is full, the connection is counted
// and continues as well: the client is balanced anew each time.
func (a *affinity) recordRules(then nft.Verdict, local bool) []nft.Rule {
	var rules []nft.Rule
	last, other := &a.clients, &a.local
	var match []nft.Match
	if local {
		last, other = other, last
	} else {
		match = []nft.Match{in(destinationTwice, a.schema.Hairpin)}
	}
	if other.used && (!local || a.localServesAll()) {
		rules = append(rules, rule(a.update(other, nft.Verdict{}), match...))
	}
	if !last.used { // no lookup uses it
		return append(rules, rule(then))
	}
	return append(rules, rule(a.update(last, then)), rule(then, nft.CounterStatement{}))
}

func (a *affinity) update(m *clientMap, then nft.Verdict) nft.Update {
	to := []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.DestinationPort}}
	return nft.Update{Key: source, Data: to, Map: m.set.Name, Timeout: a.timeout, Then: then}
}

// DedicatedObjects are the chains and maps of one Service with session affinity.
type DedicatedObjects struct {
	timeout time.Duration
	maps    []clientMap
	chains  []*nft.Chain
}

// dedicatedObjects returns the objects of all ports and families of a Service, nil if there are none.
func dedicatedObjects(affinities []*affinity) *DedicatedObjects {
	if len(affinities) == 0 {
		return nil
	}
	o := &DedicatedObjects{timeout: affinities[0].timeout}
	for _, a := range affinities {
		a.addRecordChains()
		a.addLocalLookup()
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

// table returns the objects of one table.
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

// dynamicChanges returns the changes of dynamic elements on the way from old to o: elements that name a removed endpoint are
// deleted, and a new timeout applies to all clients at once.
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
			changes = append(changes, o.mapChanges(m, before.packed(), old.timeout)...)
		}
	}
	return changes
}

// mapChanges returns the changes for one map whose elements name the endpoints recorded and have the given timeout.
func (o *DedicatedObjects) mapChanges(m clientMap, recorded packed, timeout time.Duration) []nft.Change {
	var changes []nft.Change
	if gone, _ := differences(recorded, m.packed()); len(gone) > 0 {
		changes = append(changes, nft.Change{Op: nft.Delete, Object: nft.DynamicElements{Set: m.set, Data: gone}})
	}
	if timeout != o.timeout && timeout > 0 {
		changes = append(changes, nft.Change{Op: nft.Replace, Object: nft.DynamicElements{Set: m.set, Timeout: o.timeout}})
	}
	return changes
}

// staleElements returns the same changes for tables that were read from the kernel, whatever wrote their elements.
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
			recorded := packed{recordedIn(have, dataWidth(m.set)), dataWidth(m.set)}
			changes = append(changes, o.mapChanges(m, recorded, recordTimeout(t, m.set))...)
		}
	}
	return changes
}

// recordedIn returns the endpoints that the elements of a map in the kernel name, each once, and more, in order. It omits data of
// another width: such a map is replaced.
func recordedIn(m *nft.Set, width int, more ...nft.Value) nft.Value {
	all := slices.Clone(more)
	for _, e := range m.Elements {
		if len(e.Data) == width {
			all = append(all, e.Data)
		}
	}
	slices.Sort(all)
	return join(slices.Compact(all))
}

// recordTimeout returns the timeout of the rule that records clients in a map, 0 if there is no such rule.
func recordTimeout(t *nft.Table, m *nft.Set) time.Duration {
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			if update, ok := r.Do.(nft.Update); ok && update.Map == m.Name {
				return update.Timeout
			}
		}
	}
	return 0
}
