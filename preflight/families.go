package preflight

import (
	"slices"
	"time"

	"nfproxy/nft"
)

// family is an address family with the suffixes that name it: in probe names, kernel options and kernel modules.
type family struct {
	nft.Family
	nameSuffix, optionSuffix, moduleSuffix string
}

// The address families. These variables are never changed.
var (
	ipv4Family = family{nft.IPv4, "", "IPV4", "ipv4"}
	ipv6Family = family{nft.IPv6, "-ipv6", "IPV6", "ipv6"}
)

// probes returns the probes of features that each family has separately.
func (f family) probes() []Probe {
	probes := slices.Concat(f.chainProbes(), f.matchProbes(), f.natProbes(), f.affinityProbes(), f.rejectProbes())
	for i := range probes {
		probes[i].Name += f.nameSuffix
	}
	return probes
}

// chainProbes returns the probes of tables and chains.
func (f family) chainProbes() []Probe {
	return []Probe{
		{Name: "table", What: "table of family " + f.String(), Options: []string{"CONFIG_NF_TABLES", "CONFIG_NF_TABLES_" + f.optionSuffix},
			Modules: []string{"nf_tables"}, Tables: []*nft.Table{{TableID: tableID(f.Family, "table")}}},
		{Name: "nat-chain", What: "chain of type nat", Options: []string{"CONFIG_NF_NAT", "CONFIG_NFT_NAT"},
			Modules: []string{"nft_chain_nat"}, Tables: oneRule(f.Family, "nat-chain", nft.Prerouting, nft.Verdict{Kind: nft.Drop}, nil)},
	}
}

// matchProbes returns the probes of matches.
func (f family) matchProbes() []Probe {
	drop := nft.Verdict{Kind: nft.Drop}
	original := nft.Field{Kind: nft.OriginalDestinationAddr}
	return []Probe{
		{Name: "fib", What: "match on local source addresses (fib)", Options: []string{"CONFIG_NFT_FIB_" + f.optionSuffix},
			Modules: []string{"nft_fib_" + f.moduleSuffix},
			Tables:  oneRule(f.Family, "fib", nft.Postrouting, drop, []nft.Match{nft.FibSourceLocal{}})},
		{Name: "ct-original", What: "original destination of a connection (ct original)", Options: []string{"CONFIG_NFT_CT"},
			Modules: []string{"nft_ct"}, Tables: oneRule(f.Family, "ct-original", nft.Postrouting, drop,
				[]nft.Match{nft.In{Key: []nft.Field{original}, Set: "s"}}, &nft.Set{Name: "s", Key: []nft.Type{f.AddrType()}})},
	}
}

// natProbes returns the probes of destination and source address translation.
func (f family) natProbes() []Probe {
	return []Probe{
		{Name: "dnat", What: "destination translation through a map (dnat)", Options: []string{"CONFIG_NF_NAT", "CONFIG_NFT_NAT"},
			Modules: []string{"nft_nat"}, Tables: oneRule(f.Family, "dnat", nft.Prerouting,
				nft.DNAT{Key: frontendFields, Map: "m"}, nil, &nft.Set{Name: "m", Key: frontendKey(f.Family), Data: f.endpointTypes()})},
		{Name: "masquerade", What: "source translation with random ports (masquerade fully-random)",
			Options: []string{"CONFIG_NF_NAT_MASQUERADE", "CONFIG_NFT_MASQ"}, Modules: []string{"nft_masq"},
			Tables: oneRule(f.Family, "masquerade", nft.Postrouting, nft.Masquerade{}, nil)},
		{Name: "redirect", What: "translation of pings to this machine (redirect)", Options: []string{"CONFIG_NFT_REDIR"}, Modules: []string{"nft_redir"},
			Flag: "--answer-ping", Tables: oneRule(f.Family, "redirect", nft.Prerouting, nft.Redirect{}, []nft.Match{nft.EchoRequest{}})},
	}
}

// affinityProbes returns the probe of the map that session affinity needs.
func (f family) affinityProbes() []Probe {
	clients := &nft.Set{Name: "m", Key: []nft.Type{f.AddrType()}, Data: f.endpointTypes(), Dynamic: true, Size: 16}
	remember := nft.Update{Key: []nft.Field{source}, Data: []nft.Field{destination, port}, Map: "m", Timeout: time.Hour,
		Then: nft.Verdict{Kind: nft.Accept}}
	return []Probe{
		{Name: "dynset", What: "map with a timeout that packets add elements to (dynset)", Options: []string{"CONFIG_NF_TABLES"},
			Modules: []string{"nf_tables"}, Tables: oneRule(f.Family, "dynset", nft.Postrouting, remember, nil, clients)},
	}
}

// rejectProbes returns the probes of the reject statement in a chain of type nat at prerouting.
func (f family) rejectProbes() []Probe {
	options, modules := []string{"CONFIG_NFT_REJECT", "CONFIG_NFT_REJECT_" + f.optionSuffix}, []string{"nft_reject_" + f.moduleSuffix}
	tcp := []nft.Match{nft.OfProtocol{Protocol: nft.TCP}}
	return []Probe{
		{Name: "reject", What: "reject with ICMP in prerouting", Options: options, Modules: modules, Since: "5.9",
			Tables: oneRule(f.Family, "reject", nft.Prerouting, nft.Reject{}, nil)},
		{Name: "tcp-reset", What: "reject with a TCP reset in prerouting", Options: options, Modules: modules, Since: "5.9",
			Tables: oneRule(f.Family, "tcp-reset", nft.Prerouting, nft.Reject{TCPReset: true}, tcp)},
	}
}

// endpointTypes returns the data type address . port.
func (f family) endpointTypes() []nft.Type { return []nft.Type{f.AddrType(), nft.InetService} }
