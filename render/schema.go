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

// schema is the declarations of one family's sets. Keys begin with the frontend but for those of clusterIPs,
// serviceCIDRs, localSources and hairpin.
type schema struct {
	table nft.TableID
	// services says where a frontend's connections go.
	services *nft.Set
	// admitted says it for those that sourceRanges let in.
	admitted, sourceRanges *nft.Set
	// fromNode and fromOutside say it for policy Local: for this node's pods and itself, and for everybody else.
	fromNode, fromOutside *nft.Set
	// endpoints has, for each frontend, one endpoint per slot; localEndpoints those of this node, for fromOutside.
	endpoints, localEndpoints *nft.Set
	// connections says how connections that came to a frontend are masqueraded, if not as those to a cluster IP.
	connections *nft.Set
	// clusterIPs are the Services' own addresses.
	clusterIPs *nft.Set
	// serviceCIDRs are the ranges these come from.
	serviceCIDRs *nft.Set
	// localSources are the sources that are pods.
	localSources *nft.Set
	// hairpin has each local endpoint's address twice: who reaches it from itself must be masqueraded.
	hairpin *nft.Set
}

// The declarations are data: nothing changes them.
var ip, ip6 = newSchema(nft.IPv4), newSchema(nft.IPv6)

func newSchema(f nft.Family) *schema {
	table := nft.TableID{Family: f, Name: tableName}
	addr := f.AddrType()
	key := []nft.Type{addr, nft.InetProto, nft.InetService}
	set := func(name string, types ...nft.Type) *nft.Set { return &nft.Set{Table: table, Name: name, Key: types} }
	verdicts := func(name string) *nft.Set {
		return &nft.Set{Table: table, Name: name, Key: key, Data: []nft.Type{nft.VerdictType}}
	}
	slots := func(name string) *nft.Set {
		return &nft.Set{Table: table, Name: name, Key: append(slices.Clone(key), nft.SlotNumber),
			Data: []nft.Type{addr, nft.InetService}}
	}
	s := &schema{
		table:          table,
		services:       verdicts("services"),
		admitted:       verdicts("admitted"),
		sourceRanges:   set("source-ranges", append(slices.Clone(key), addr)...),
		fromNode:       verdicts("from-node"),
		fromOutside:    verdicts("from-outside"),
		endpoints:      slots("endpoints"),
		localEndpoints: slots("local-endpoints"),
		connections:    verdicts("connections"),
		clusterIPs:     set("cluster-ips", addr),
		serviceCIDRs:   set("service-cidrs", addr),
		localSources:   set("local-sources", addr),
		hairpin:        set("hairpin", addr, addr),
	}
	s.sourceRanges.Interval, s.serviceCIDRs.Interval, s.localSources.Interval = true, true, true
	return s
}

// ofServices are the sets whose elements come with Services.
func (s *schema) ofServices() []*nft.Set {
	return []*nft.Set{s.clusterIPs, s.hairpin, s.services, s.sourceRanges, s.admitted, s.fromNode, s.fromOutside,
		s.endpoints, s.localEndpoints, s.connections}
}

// counts says whether elements of a set count on a node: those of a frontend, and those of its endpoints.
func (s *schema) counts(set *nft.Set, by Counters) bool {
	switch set {
	case s.services, s.admitted, s.fromNode, s.fromOutside: // what the first has and the others have not was dropped
		return by != CountNothing
	case s.endpoints, s.localEndpoints:
		return by == CountEndpoints
	}
	return false
}

// DescribedSets are the names of the sets that Describe needs besides Slots.
func DescribedSets() []string { return append(CountedSets(CountServices), ip.hairpin.Name) }

// CountedSets are the names of the sets that Describe needs to tell how many connections there were.
func CountedSets(by Counters) []string {
	sets := []*nft.Set{ip.services, ip.connections, ip.admitted, ip.fromNode, ip.fromOutside}
	if by == CountEndpoints {
		sets = append(sets, ip.endpoints, ip.localEndpoints, ip.hairpin)
	}
	var names []string
	for _, s := range sets {
		names = append(names, s.Name)
	}
	return names
}

// declared returns the declaration of a set as it is on a node.
func (n Node) declared(set *nft.Set) *nft.Set {
	if !schemaOf(set.Table.Family).counts(set, n.Counters) {
		return set
	}
	counting := *set
	counting.Counter = true
	return &counting
}

// hasSlots says whether a set's keys are slots of frontends.
func hasSlots(s *nft.Set) bool { return s.Key[len(s.Key)-1] == nft.SlotNumber }

// isServices says whether a set is a services map: a Service has a frontend if it has an element there.
func isServices(s *nft.Set) bool { return s == ip.services || s == ip6.services }

// isConnections says whether a set is a connections map: its comments are the kinds of frontends.
func isConnections(s *nft.Set) bool { return s == ip.connections || s == ip6.connections }

// frontendOf is the part of a member's key that names its frontend, "" for members of sets that Services share.
func frontendOf(m nft.Member) nft.Value {
	if len(m.Set.Key) < 3 {
		return ""
	}
	return m.Key[:m.Set.Key[0].Width()+m.Set.Key[1].Width()+m.Set.Key[2].Width()]
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

// balancer is a load balancing chain: by where it looks the endpoints up and how many there are.
type balancer struct {
	family    nft.Family
	local     bool
	endpoints int
}

func (b balancer) verdict() nft.Verdict { return nft.GotoChain(b.chain()) }

func (b balancer) chain() string {
	if b.local {
		return fmt.Sprintf("local-lb-%d", b.endpoints)
	}
	return fmt.Sprintf("lb-%d", b.endpoints)
}

// balancerOf returns the balancer that a verdict goes to; it says false for another verdict.
func balancerOf(f nft.Family, v nft.Verdict) (balancer, bool) {
	name, local := strings.CutPrefix(v.Chain, "local-")
	digits, ok := strings.CutPrefix(name, "lb-")
	n, err := strconv.Atoi(digits)
	return balancer{f, local, n}, ok && err == nil && v.Kind == nft.Goto
}
