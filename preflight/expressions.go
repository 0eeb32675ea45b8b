package preflight

import (
	"slices"
	"time"

	"nfproxy/nft"
)

// Probes returns one probe for each expression, statement and set type that nfproxy's rules use, and last a probe of a
// complete ruleset. Without ipv6 no probe needs IPv6.
func Probes(ipv6 bool) []Probe {
	probes := slices.Concat(ipv4Family.probes(), commonProbes())
	if ipv6 {
		probes = append(probes, ipv6Family.probes()...)
	}
	return append(probes, rulesetProbe(ipv6))
}

// The packet fields that the probes look up.
var (
	source      = nft.Field{Kind: nft.SourceAddr}
	destination = nft.Field{Kind: nft.DestinationAddr}
	protocol    = nft.Field{Kind: nft.L4Protocol}
	port        = nft.Field{Kind: nft.DestinationPort}

	frontendFields = []nft.Field{destination, protocol, port}
)

// tableID returns the table of the probe with that name.
func tableID(f nft.Family, name string) nft.TableID {
	return nft.TableID{Family: f, Name: "probe-" + name}
}

// oneRule returns a table with the sets and a chain of type nat that has a single rule.
func oneRule(f nft.Family, name string, hook nft.Hook, do nft.Action, match []nft.Match, sets ...*nft.Set) []*nft.Table {
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

// frontendKey returns the key type address . protocol . port, with more types appended.
func frontendKey(f nft.Family, more ...nft.Type) []nft.Type {
	return append([]nft.Type{f.AddrType(), nft.InetProto, nft.InetService}, more...)
}

// commonProbes returns the probes of features that do not depend on the address family. They use IPv4 tables.
func commonProbes() []Probe {
	const f = nft.IPv4
	drop := nft.Verdict{Kind: nft.Drop}
	in := func(set string, key ...nft.Field) []nft.Match { return []nft.Match{nft.In{Key: key, Set: set}} }
	core := []string{"CONFIG_NF_TABLES"}
	return []Probe{
		{Name: "verdict-map", What: "verdict map with concatenated keys", Options: core, Modules: []string{"nf_tables"},
			Tables: oneRule(f, "verdict-map", nft.Prerouting, nft.VerdictMap{Key: frontendFields, Map: "m"}, nil,
				&nft.Set{Name: "m", Key: frontendKey(f), Data: []nft.Type{nft.VerdictType}})},
		{Name: "element-counters", What: "map with a counter per element", Options: core, Modules: []string{"nf_tables"}, Since: "5.7",
			Tables: oneRule(f, "element-counters", nft.Prerouting, nft.VerdictMap{Key: frontendFields, Map: "m"}, nil,
				&nft.Set{Name: "m", Key: frontendKey(f), Data: []nft.Type{nft.VerdictType}, Counter: true})},
		{Name: "rule-counter", What: "rule with a counter", Options: core, Modules: []string{"nf_tables"},
			Tables: oneRule(f, "rule-counter", nft.Prerouting, drop, []nft.Match{nft.CounterStatement{}})},
		{Name: "intervals", What: "interval set", Options: core, Modules: []string{"nf_tables"},
			Tables: oneRule(f, "intervals", nft.Prerouting, drop, in("s", source),
				&nft.Set{Name: "s", Key: []nft.Type{nft.IPv4Addr}, Interval: true})},
		{Name: "concatenated-intervals", What: "interval set with concatenated keys", Options: core,
			Modules: []string{"nf_tables"}, Since: "5.6",
			Tables: oneRule(f, "concatenated-intervals", nft.Prerouting, drop, in("s", append(slices.Clone(frontendFields), source)...),
				&nft.Set{Name: "s", Key: frontendKey(f, nft.IPv4Addr), Interval: true})},
		{Name: "iifname", What: "input interface in postrouting (meta iifname)", Options: core, Modules: []string{"nf_tables"},
			Since: "5.7", Tables: oneRule(f, "iifname", nft.Postrouting, drop, []nft.Match{nft.InputInterface{Name: "cni0"}})},
		{Name: "ct-status", What: "match on translated connections (ct status)", Options: []string{"CONFIG_NFT_CT"},
			Modules: []string{"nft_ct"}, Tables: oneRule(f, "ct-status", nft.Postrouting, drop, []nft.Match{nft.CtStatusDNAT{}})},
		{Name: "numgen", What: "random number (numgen)", Options: []string{"CONFIG_NFT_NUMGEN"}, Modules: []string{"nft_numgen"},
			Tables: oneRule(f, "numgen", nft.Prerouting, drop, in("s", append(slices.Clone(frontendFields), nft.Field{Kind: nft.RandomNumber, Mod: 3})...),
				&nft.Set{Name: "s", Key: frontendKey(f, nft.SlotNumber)})},
		{Name: "hash", What: "hash of the source address and port (jhash)", Options: []string{"CONFIG_NFT_HASH"}, Modules: []string{"nft_hash"},
			Flag: "the annotation lb-algorithm: maglev", Tables: oneRule(f, "hash", nft.Prerouting, drop,
				in("s", append(slices.Clone(frontendFields), nft.Field{Kind: nft.ConnectionHash, Mod: 3})...),
				&nft.Set{Name: "s", Key: frontendKey(f, nft.SlotNumber)})},
		{Name: "limit", What: "set whose elements have limits, filled by packets", Options: []string{"CONFIG_NFT_LIMIT"}, Modules: []string{"nft_limit"},
			Flag: "a limit on new connections (annotation max-connection-rate)", Since: "5.7",
			Tables: oneRule(f, "limit", nft.Prerouting, drop, []nft.Match{nft.OverLimit{Key: frontendFields, Set: "s", Timeout: time.Minute}},
				&nft.Set{Name: "s", Key: frontendKey(f), Dynamic: true, Size: 1, Limit: &nft.Limit{Packets: 1, Per: time.Second, Burst: 5}})},
	}
}
