package render

import (
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
)

// The keys of lookups in rules.
var (
	source               = []nft.Field{{Kind: nft.SourceAddr}}
	destination          = []nft.Field{{Kind: nft.DestinationAddr}}
	originalDestination  = []nft.Field{{Kind: nft.OriginalDestinationAddr}}
	destinationTwice     = []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.DestinationAddr}}
	sourceAndDestination = []nft.Field{{Kind: nft.SourceAddr}, {Kind: nft.DestinationAddr}}
	frontend             = []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.L4Protocol}, {Kind: nft.DestinationPort}}
	originalFrontend     = []nft.Field{{Kind: nft.OriginalDestinationAddr}, {Kind: nft.L4Protocol}, {Kind: nft.OriginalDestinationPort}}
)

// Priorities of the base chains: those of destination and source NAT (NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC in
// include/uapi/linux/netfilter_ipv4.h), one after any destination NAT, and one before any source NAT.
const (
	natDestination      = -100
	afterNATDestination = 0
	beforeNATSource     = 99
	natSource           = 100
)

// Skeleton returns the tables without Services: the constant part and the part that depends on the node alone.
func Skeleton(n Node) []*nft.Table {
	var tables []*nft.Table
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		if n.IPv4Only && f == nft.IPv6 {
			continue
		}
		s := n.Instance.SchemaOf(f)
		t := &nft.Table{TableID: s.Table, Comment: schemaComment()}
		t.Sets = append(t.Sets, s.withPrefixes(s.ServiceCIDRs, n.ServiceCIDRs), s.withPrefixes(s.LocalSources, n.sources()), s.refusals())
		for _, set := range s.ofServices(n) {
			t.Sets = append(t.Sets, s.withPrefixes(n.declared(set), nil))
		}
		t.Chains = slices.Concat(s.baseChains(n), s.destinationChains(n), s.sourceChains(n),
			[]*nft.Chain{s.firstSlotChain(false), s.firstSlotChain(true)})
		tables = append(tables, t)
	}
	return tables
}

func (s *Schema) baseChains(n Node) []*nft.Chain {
	base := func(name string, h nft.Hook, priority int32, r nft.Rule) *nft.Chain {
		return &nft.Chain{Table: s.Table, Name: name, Hook: h, Priority: priority, Rules: []nft.Rule{r}}
	}
	chains := []*nft.Chain{
		base("prerouting", nft.Prerouting, natDestination, rule(nft.GotoChain(DispatchChain))),
		base("output", nft.Output, natDestination, rule(nft.GotoChain(DispatchChain))),
		// An address of the service CIDRs that no Service has is dropped where the packet leaves untranslated: other proxies may
		// translate it before, and an address that is bound on this node is delivered.
		base(UnallocatedChain, nft.Postrouting, beforeNATSource, rule(nft.Verdict{Kind: nft.Drop}, in(destination, s.ServiceCIDRs))),
		base("postrouting", nft.Postrouting, natSource, rule(nft.GotoChain(ConnectionsChain), nft.CtStatusDNAT{})),
		base("input", nft.Input, natSource, rule(nft.GotoChain(DeliveredChain), nft.CtStatusDNAT{})),
	}
	if n.UnservedPorts == PassUnserved {
		return chains
	}
	// Other programs may translate connections to other ports of the addresses, at any of the usual priorities: a chain of type nat
	// does not see a connection that one before it has translated. An address that is bound on this node is the node's own.
	unserved := rule(s.unserved(n.UnservedPorts), in(destination, s.ExternalAddresses), nft.FibDestinationLocal{Not: true})
	return append(chains,
		base(UnservedReceivedChain, nft.Prerouting, afterNATDestination, unserved),
		base(UnservedSentChain, nft.Output, afterNATDestination, unserved))
}

// destinationChains returns the chains that decide where a connection goes.
func (s *Schema) destinationChains(n Node) []*nft.Chain {
	lookup := func(m *nft.Set) nft.VerdictMap { return nft.VerdictMap{Key: frontend, Map: m.Name} }
	drop := nft.Verdict{Kind: nft.Drop}
	admission := append(slices.Clone(frontend), source...)
	dispatch := []nft.Rule{rule(lookup(s.Services))}
	if n.AnswerPing {
		dispatch = append(dispatch, rule(nft.Redirect{}, in(destination, s.Ping), nft.EchoRequest{}, nft.FibDestinationLocal{Not: true}))
	}
	return []*nft.Chain{
		s.chain(DispatchChain, append(dispatch, rule(s.refuse(), in(destination, s.ClusterIPs)))...),
		s.chain(SourceRangesChain,
			rule(lookup(s.Admitted), in(admission, s.SourceRanges)),
			rule(drop)),
		s.chain(ExternalLocalChain,
			rule(lookup(s.FromNode), s.fromPod(n, false)),
			rule(lookup(s.FromNode), nft.FibSourceLocal{}),
			rule(lookup(s.FromOutside)),
			rule(drop)),
		s.chain(RefuseChain,
			// The kernel limits the rate of ICMP errors, but not of TCP resets.
			rule(nft.Reject{TCPReset: true}, nft.OfProtocol{Protocol: nft.TCP}),
			rule(nft.Reject{})),
	}
}

// refuse returns the action that refuses packets because their destination is in a set.
func (s *Schema) refuse() nft.Action {
	return nft.VerdictMap{Key: []nft.Field{{Kind: nft.PacketDirection}}, Map: s.Refusals.Name}
}

// refusals returns the map that refuse looks up, with its element.
func (s *Schema) refusals() *nft.Set {
	m := *s.Refusals
	m.Elements = []nft.Element{{Key: nft.Original.Value(), Data: nft.GotoChain(RefuseChain).Value()}}
	return &m
}

// sourceChains returns the chains that translated connections pass where they leave: those that decide whether a connection is
// masqueraded, by its original destination, and the one for connections to this node itself.
func (s *Schema) sourceChains(n Node) []*nft.Chain {
	hairpin := rule(nft.Masquerade{}, in(sourceAndDestination, s.Hairpin))
	return []*nft.Chain{
		s.chain(ConnectionsChain,
			append(byOriginalFrontend(s.Connections), rule(nft.GotoChain(MasqueradeClusterChain), in(originalDestination, s.ClusterIPs)))...),
		s.chain(DeliveredChain, byOriginalFrontend(s.Delivered)...),
		s.chain(MasqueradeClusterChain, s.clusterRules(n, hairpin)...),
		s.chain(MasqueradeNodeChain,
			hairpin,
			rule(nft.Verdict{Kind: nft.Return}, s.fromPod(n, false)),
			rule(nft.Masquerade{}, nft.FibSourceLocal{})),
		s.chain(MasqueradeAllChain, rule(nft.Masquerade{})),
	}
}

// byOriginalFrontend returns the rules that look up the frontend to which a translated connection was made.
func byOriginalFrontend(m *nft.Set) []nft.Rule {
	var rules []nft.Rule
	for _, p := range []nft.Protocol{nft.TCP, nft.UDP, nft.SCTP} { // nft needs the protocol to print ports
		rules = append(rules, rule(nft.VerdictMap{Key: originalFrontend, Map: m.Name}, nft.OfProtocol{Protocol: p}))
	}
	return rules
}

// clusterRules returns the rules that masquerade connections to cluster IPs: hairpin connections, and connections from sources
// that are not Pods. Without a cluster CIDR the latter cannot be recognized and are not masqueraded, as in kube-proxy.
func (s *Schema) clusterRules(n Node, hairpin nft.Rule) []nft.Rule {
	if n.MasqueradeAll {
		return []nft.Rule{rule(nft.Masquerade{})}
	}
	rules := []nft.Rule{hairpin}
	if n.PodInterface != "" || len(outermost(n.ClusterCIDRs, s.Table.Family)) > 0 {
		rules = append(rules, rule(nft.Masquerade{}, s.fromPod(n, true)))
	}
	return rules
}

// fromPod returns the match for packets of Pods, or with not for all others.
func (s *Schema) fromPod(n Node, not bool) nft.Match {
	if n.PodInterface == "" {
		return nft.In{Key: source, Set: s.LocalSources.Name, Not: not}
	}
	name, prefix := strings.CutSuffix(n.PodInterface, "*")
	return nft.InputInterface{Name: name, Prefix: prefix, Not: not}
}

// sources returns the source addresses of Pods, none if the input interface identifies them.
func (n Node) sources() []netip.Prefix {
	if n.PodInterface != "" {
		return nil
	}
	return n.ClusterCIDRs
}

// rule returns a rule with an action and the matches that must hold.
func rule(a nft.Action, matches ...nft.Match) nft.Rule { return nft.Rule{Match: matches, Do: a} }

// in returns the match for packets whose key is in a set.
func in(key []nft.Field, set *nft.Set) nft.Match { return nft.In{Key: key, Set: set.Name} }

func (s *Schema) chain(name string, rules ...nft.Rule) *nft.Chain {
	return &nft.Chain{Table: s.Table, Name: name, Rules: rules}
}

// withPrefixes returns an interval set with the prefixes of its family.
func (s *Schema) withPrefixes(set *nft.Set, prefixes []netip.Prefix) *nft.Set {
	declared := *set
	for _, p := range outermost(prefixes, s.Table.Family) {
		declared.Elements = append(declared.Elements, nft.Element{Key: nft.Interval(p)})
	}
	declared.Sort()
	return &declared
}

// outermost returns the prefixes of a family that no other prefix contains, each once: intervals of a set must not overlap.
func outermost(prefixes []netip.Prefix, f nft.Family) []netip.Prefix {
	var kept []netip.Prefix
	for _, p := range prefixes {
		if p = p.Masked(); Family(p.Addr()) != f || slices.Contains(kept, p) {
			continue
		}
		inside := func(q netip.Prefix) bool { return q.Bits() < p.Bits() && q.Contains(p.Addr()) }
		if !slices.ContainsFunc(prefixes, inside) {
			kept = append(kept, p)
		}
	}
	return kept
}
