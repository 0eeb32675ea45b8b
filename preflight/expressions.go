package preflight

import (
	"slices"

	"nfproxy/nft"
)

// Probes are the expressions and the types of sets that the rules are made of, one at a time, and then all together.
// Without IPv6 there are none of it.
func Probes(ipv6 bool) []Probe {
	probes := slices.Concat(ipv4Names.probes(), basics())
	if ipv6 {
		probes = append(probes, ipv6Names.probes()...)
	}
	return append(probes, ruleset(ipv6))
}

// The parts of packets that are looked up.
var (
	source      = nft.Field{Kind: nft.SourceAddr}
	destination = nft.Field{Kind: nft.DestinationAddr}
	protocol    = nft.Field{Kind: nft.L4Protocol}
	port        = nft.Field{Kind: nft.DestinationPort}

	frontend = []nft.Field{destination, protocol, port}
)

// tableID is the table of a probe.
func tableID(f nft.Family, name string) nft.TableID {
	return nft.TableID{Family: f, Name: "probe-" + name}
}

// inChain is a table with one rule in a chain of type nat, and the sets that the rule looks up.
func inChain(f nft.Family, name string, hook nft.Hook, do nft.Action, match []nft.Match, sets ...*nft.Set) []*nft.Table {
	t := &nft.Table{TableID: tableID(f, name), Sets: sets}
	for _, s := range sets {
		s.Table = t.TableID
	}
	priority := int32(-100)
	if hook == nft.Postrouting {
		priority = 100
	}
	t.Chains = []*nft.Chain{{Table: t.TableID, Name: "probe", Hook: hook, Priority: priority,
		Rules: []nft.Rule{{Match: match, Do: do}}}}
	return []*nft.Table{t}
}

// frontends is the type of keys that begin with an address, a protocol and a port.
func frontends(f nft.Family, more ...nft.Type) []nft.Type {
	return append([]nft.Type{f.AddrType(), nft.InetProto, nft.InetService}, more...)
}

// basics are the same whatever the family, and are tried with IPv4.
func basics() []Probe {
	const f = nft.IPv4
	drop := nft.Verdict{Kind: nft.Drop}
	in := func(set string, key ...nft.Field) []nft.Match { return []nft.Match{nft.In{Key: key, Set: set}} }
	core := []string{"CONFIG_NF_TABLES"}
	return []Probe{
		{Name: "verdict-map", What: "a verdict map with concatenated keys", Options: core, Modules: []string{"nf_tables"},
			Tables: inChain(f, "verdict-map", nft.Prerouting, nft.VerdictMap{Key: frontend, Map: "m"}, nil,
				&nft.Set{Name: "m", Key: frontends(f), Data: []nft.Type{nft.VerdictType}})},
		{Name: "element-counters", What: "a map whose elements count", Options: core, Modules: []string{"nf_tables"}, Since: "5.7",
			Tables: inChain(f, "element-counters", nft.Prerouting, nft.VerdictMap{Key: frontend, Map: "m"}, nil,
				&nft.Set{Name: "m", Key: frontends(f), Data: []nft.Type{nft.VerdictType}, Counter: true})},
		{Name: "rule-counter", What: "a rule that counts", Options: core, Modules: []string{"nf_tables"},
			Tables: inChain(f, "rule-counter", nft.Prerouting, drop, []nft.Match{nft.CounterStatement{}})},
		{Name: "intervals", What: "a set of intervals", Options: core, Modules: []string{"nf_tables"},
			Tables: inChain(f, "intervals", nft.Prerouting, drop, in("s", source),
				&nft.Set{Name: "s", Key: []nft.Type{nft.IPv4Addr}, Interval: true})},
		{Name: "concatenated-intervals", What: "a set of intervals of concatenated keys", Options: core,
			Modules: []string{"nf_tables"}, Since: "5.6",
			Tables: inChain(f, "concatenated-intervals", nft.Prerouting, drop, in("s", append(slices.Clone(frontend), source)...),
				&nft.Set{Name: "s", Key: frontends(f, nft.IPv4Addr), Interval: true})},
		{Name: "iifname", What: "the interface a packet came in by (meta iifname)", Options: core, Modules: []string{"nf_tables"},
			Since: "5.7", Tables: inChain(f, "iifname", nft.Postrouting, drop, []nft.Match{nft.InputInterface{Name: "cni0"}})},
		{Name: "ct-status", What: "whether a connection was translated (ct status)", Options: []string{"CONFIG_NFT_CT"},
			Modules: []string{"nft_ct"}, Tables: inChain(f, "ct-status", nft.Postrouting, drop, []nft.Match{nft.CtStatusDNAT{}})},
		{Name: "numgen", What: "a random choice (numgen)", Options: []string{"CONFIG_NFT_NUMGEN"}, Modules: []string{"nft_numgen"},
			Tables: inChain(f, "numgen", nft.Prerouting, drop, in("s", append(slices.Clone(frontend), nft.Field{Kind: nft.RandomNumber, Mod: 3})...),
				&nft.Set{Name: "s", Key: frontends(f, nft.SlotNumber)})},
	}
}
