package preflight

import (
	"slices"
	"time"

	"nfproxy/nft"
)

// familyNames are how the kernel calls a family: at the end of its options and of its modules. suffix is ours.
type familyNames struct {
	nft.Family
	suffix, option, module string
}

// The families' names are data: nothing changes them.
var (
	ipv4Names = familyNames{nft.IPv4, "", "IPV4", "ipv4"}
	ipv6Names = familyNames{nft.IPv6, "-ipv6", "IPV6", "ipv6"}
)

// probes are those that each family has of its own.
func (f familyNames) probes() []Probe {
	probes := slices.Concat(f.places(), f.translations(), f.refusals())
	for i := range probes {
		probes[i].Name += f.suffix
	}
	return probes
}

// places are where rules are, and what they ask of the family.
func (f familyNames) places() []Probe {
	drop := nft.Verdict{Kind: nft.Drop}
	original := nft.Field{Kind: nft.OriginalDestinationAddr}
	return []Probe{
		{Name: "table", What: "a table of family " + f.String(), Options: []string{"CONFIG_NF_TABLES", "CONFIG_NF_TABLES_" + f.option},
			Modules: []string{"nf_tables"}, Tables: []*nft.Table{{TableID: tableID(f.Family, "table")}}},
		{Name: "nat-chain", What: "a chain of type nat", Options: []string{"CONFIG_NF_NAT", "CONFIG_NFT_NAT"},
			Modules: []string{"nft_chain_nat"}, Tables: inChain(f.Family, "nat-chain", nft.Prerouting, drop, nil)},
		{Name: "fib", What: "whether a source is this node (fib)", Options: []string{"CONFIG_NFT_FIB_" + f.option},
			Modules: []string{"nft_fib_" + f.module},
			Tables:  inChain(f.Family, "fib", nft.Postrouting, drop, []nft.Match{nft.FibSourceLocal{}})},
		{Name: "ct-original", What: "where a connection was sent at first (ct original)", Options: []string{"CONFIG_NFT_CT"},
			Modules: []string{"nft_ct"}, Tables: inChain(f.Family, "ct-original", nft.Postrouting, drop,
				[]nft.Match{nft.In{Key: []nft.Field{original}, Set: "s"}}, &nft.Set{Name: "s", Key: []nft.Type{f.AddrType()}})},
	}
}

// translations are those of destination and source, and the memory of them.
func (f familyNames) translations() []Probe {
	to := []nft.Type{f.AddrType(), nft.InetService}
	clients := &nft.Set{Name: "m", Key: []nft.Type{f.AddrType()}, Data: to, Dynamic: true, Size: 16}
	remember := nft.Update{Key: []nft.Field{source}, Data: []nft.Field{destination, port}, Map: "m", Timeout: time.Hour,
		Then: nft.Verdict{Kind: nft.Accept}}
	return []Probe{
		{Name: "dnat", What: "a translation of the destination by a map (dnat)", Options: []string{"CONFIG_NF_NAT", "CONFIG_NFT_NAT"},
			Modules: []string{"nft_nat"}, Tables: inChain(f.Family, "dnat", nft.Prerouting,
				nft.DNAT{Key: frontend, Map: "m"}, nil, &nft.Set{Name: "m", Key: frontends(f.Family), Data: to})},
		{Name: "masquerade", What: "masquerading by random ports (masquerade fully-random)",
			Options: []string{"CONFIG_NF_NAT_MASQUERADE", "CONFIG_NFT_MASQ"}, Modules: []string{"nft_masq"},
			Tables: inChain(f.Family, "masquerade", nft.Postrouting, nft.Masquerade{}, nil)},
		{Name: "dynset", What: "a map that packets add to, for a time (dynset)", Options: []string{"CONFIG_NF_TABLES"},
			Modules: []string{"nf_tables"}, Tables: inChain(f.Family, "dynset", nft.Postrouting, remember, nil, clients)},
	}
}

// refusals answer clients that nobody serves, from a chain of type nat in prerouting.
func (f familyNames) refusals() []Probe {
	options, modules := []string{"CONFIG_NFT_REJECT", "CONFIG_NFT_REJECT_" + f.option}, []string{"nft_reject_" + f.module}
	tcp := []nft.Match{nft.OfProtocol{Protocol: nft.TCP}}
	return []Probe{
		{Name: "reject", What: "a refusal by ICMP (reject)", Options: options, Modules: modules, Since: "5.9",
			Tables: inChain(f.Family, "reject", nft.Prerouting, nft.Reject{}, nil)},
		{Name: "tcp-reset", What: "a refusal by TCP reset", Options: options, Modules: modules, Since: "5.9",
			Tables: inChain(f.Family, "tcp-reset", nft.Prerouting, nft.Reject{TCPReset: true}, tcp)},
	}
}
