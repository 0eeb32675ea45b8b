package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"nfproxy/nft"
)

// Schema is the version of the tables' shape. It stands in their comments; a table of another schema is replaced.
const Schema = 1

// tableName is the name of both our tables.
const tableName = "nfproxy"

// Tables returns the names of our tables.
func Tables() []nft.TableID {
	return []nft.TableID{ip.table, ip6.table}
}

// schema is the declarations of one family's sets.
type schema struct {
	table nft.TableID
	// services says where a frontend's connections go. Its elements count them.
	services *nft.Set
	// endpoints has, for each frontend, one endpoint per slot.
	endpoints *nft.Set
	// clusterIPs are the Services' own addresses.
	clusterIPs *nft.Set
	// serviceCIDRs are the ranges these come from.
	serviceCIDRs *nft.Set
	// localSources are the sources that are not masqueraded.
	localSources *nft.Set
	// hairpin has each local endpoint's address twice: who reaches it from itself must be masqueraded.
	hairpin *nft.Set
}

// The declarations are data: nothing changes them.
var ip, ip6 = newSchema(nft.IPv4), newSchema(nft.IPv6)

func newSchema(f nft.Family) *schema {
	table := nft.TableID{Family: f, Name: tableName}
	addr := f.AddrType()
	frontend := []nft.Type{addr, nft.InetProto, nft.InetService}
	return &schema{
		table: table,
		services: &nft.Set{Table: table, Name: "services", Key: frontend, Data: []nft.Type{nft.VerdictType},
			Counter: true},
		endpoints: &nft.Set{Table: table, Name: "endpoints", Key: append(slices.Clone(frontend), nft.SlotNumber),
			Data: []nft.Type{addr, nft.InetService}},
		clusterIPs:   &nft.Set{Table: table, Name: "cluster-ips", Key: []nft.Type{addr}},
		serviceCIDRs: &nft.Set{Table: table, Name: "service-cidrs", Key: []nft.Type{addr}, Interval: true},
		localSources: &nft.Set{Table: table, Name: "local-sources", Key: []nft.Type{addr}, Interval: true},
		hairpin:      &nft.Set{Table: table, Name: "hairpin", Key: []nft.Type{addr, addr}},
	}
}

// Family is the family of an address.
func Family(a netip.Addr) nft.Family {
	if a.Is4() {
		return nft.IPv4
	}
	return nft.IPv6
}

func schemaOf(f nft.Family) *schema {
	if f == nft.IPv6 {
		return ip6
	}
	return ip
}

// The keys that rules look up.
var (
	source      = []nft.Field{{Kind: nft.SourceAddr}}
	destination = []nft.Field{{Kind: nft.DestinationAddr}}
	original    = []nft.Field{{Kind: nft.OriginalDestinationAddr}}
	both        = []nft.Field{{Kind: nft.SourceAddr}, {Kind: nft.DestinationAddr}}
	frontend    = []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.L4Protocol}, {Kind: nft.DestinationPort}}
)

// The chains' names. None is a keyword of nft.
const (
	dispatchChain    = "dispatch"
	refuseChain      = "refuse"
	connectionsChain = "service-connections"
	masqueradeChain  = "masquerade-cluster"
)

// Priorities of the base chains: those of destination and source NAT (NF_IP_PRI_NAT_DST, NF_IP_PRI_NAT_SRC in
// include/uapi/linux/netfilter_ipv4.h).
const (
	natDestination = -100
	natSource      = 100
)

// Skeleton returns the tables without Services: what they have on every node, and what depends on the node alone.
func Skeleton(n Node) []*nft.Table {
	var tables []*nft.Table
	for _, s := range []*schema{ip, ip6} {
		t := &nft.Table{TableID: s.table, Comment: fmt.Sprintf("nfproxy schema %d", Schema)}
		t.Sets = []*nft.Set{
			s.declare(s.clusterIPs), s.declare(s.serviceCIDRs, n.ServiceCIDRs...),
			s.declare(s.localSources, n.ClusterCIDRs...), s.declare(s.hairpin), s.declare(s.services),
			s.declare(s.endpoints),
		}
		hasLocal := len(t.Set(s.localSources.Name).Elements) > 0
		t.Chains = []*nft.Chain{
			s.base("prerouting", nft.Prerouting, natDestination, nft.Rule{Do: nft.GotoChain(dispatchChain)}),
			s.base("output", nft.Output, natDestination, nft.Rule{Do: nft.GotoChain(dispatchChain)}),
			s.base("postrouting", nft.Postrouting, natSource,
				nft.Rule{Match: []nft.Match{nft.Translated{}}, Do: nft.GotoChain(connectionsChain)}),
			s.chain(dispatchChain,
				nft.Rule{Do: nft.VerdictMap{Key: frontend, Map: s.services.Name}},
				when(destination, s.clusterIPs, nft.GotoChain(refuseChain)),
				when(destination, s.serviceCIDRs, nft.Verdict{Kind: nft.Drop})),
			s.chain(refuseChain,
				// ICMP errors are rate limited, resets are not: a refused client learns it at once.
				nft.Rule{Match: []nft.Match{nft.OfProtocol{Protocol: nft.TCP}}, Do: nft.Reject{TCPReset: true}},
				nft.Rule{Do: nft.Reject{}}),
			s.chain(connectionsChain, when(original, s.clusterIPs, nft.GotoChain(masqueradeChain))),
			s.chain(masqueradeChain, s.masqueradeCluster(hasLocal)...),
		}
		tables = append(tables, t)
	}
	return tables
}

// masqueradeCluster is what happens to connections to cluster IPs: their source is replaced when an endpoint reaches
// itself, and when it is no pod's. Without a cluster CIDR nobody can tell which those are, and they are left alone, as
// kube-proxy does.
func (s *schema) masqueradeCluster(hasLocal bool) []nft.Rule {
	rules := []nft.Rule{when(both, s.hairpin, nft.Masquerade{})}
	if hasLocal {
		outside := nft.In{Key: source, Set: s.localSources.Name, Not: true}
		rules = append(rules, nft.Rule{Match: []nft.Match{outside}, Do: nft.Masquerade{}})
	}
	return rules
}

// loadBalancer returns the chain that chooses among n endpoints. One chain serves all frontends with that many.
//
// A commit can fall between two lookups of one packet: it was sent here by a frontend that had n endpoints, and finds
// the map of a frontend with fewer. The slot it drew may be gone, slot 0 is there as long as there is any. Were it let
// through instead, connection tracking would remember the connection as untranslated, and it would never work; dropped,
// it is new when it comes again. See docs/design/0002-fallback-slot.md.
func (s *schema) loadBalancer(n int) *nft.Chain {
	draw := func(mod int) nft.Rule {
		key := append(slices.Clone(frontend), nft.Field{Kind: nft.RandomNumber, Mod: uint32(mod)})
		return nft.Rule{Do: nft.DNAT{Key: key, Map: s.endpoints.Name}}
	}
	rules := []nft.Rule{draw(n)}
	if n > 1 {
		rules = append(rules, draw(1))
	}
	return s.chain(loadBalancerName(n), append(rules, nft.Rule{Do: nft.Verdict{Kind: nft.Drop}})...)
}

func loadBalancerName(n int) string { return fmt.Sprintf("lb-%d", n) }

// balancedEndpoints returns among how many endpoints a verdict chooses; it says false for one that does not.
func balancedEndpoints(v nft.Verdict) (int, bool) {
	digits, ok := strings.CutPrefix(v.Chain, "lb-")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && v.Kind == nft.Goto
}

// when is the rule that acts if a key is in a set.
func when(key []nft.Field, set *nft.Set, do nft.Action) nft.Rule {
	return nft.Rule{Match: []nft.Match{nft.In{Key: key, Set: set.Name}}, Do: do}
}

func (s *schema) chain(name string, rules ...nft.Rule) *nft.Chain {
	return &nft.Chain{Table: s.table, Name: name, Rules: rules}
}

func (s *schema) base(name string, h nft.Hook, priority int32, rules ...nft.Rule) *nft.Chain {
	return &nft.Chain{Table: s.table, Name: name, Hook: h, Priority: priority, Rules: rules}
}

// declare returns a set with the prefixes that are of the family, none inside another: intervals must not overlap.
func (s *schema) declare(set *nft.Set, prefixes ...netip.Prefix) *nft.Set {
	declared := *set
	for _, p := range prefixes {
		if Family(p.Addr()) != s.table.Family {
			continue
		}
		inside := slices.ContainsFunc(prefixes, func(q netip.Prefix) bool {
			return q.Bits() < p.Bits() && q.Contains(p.Addr())
		})
		if !inside {
			declared.Elements = append(declared.Elements, nft.Element{Key: nft.Interval(p)})
		}
	}
	declared.Sort()
	declared.Elements = slices.CompactFunc(declared.Elements, func(a, b nft.Element) bool { return a.Key == b.Key })
	return &declared
}
