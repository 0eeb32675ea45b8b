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
const SchemaVersion = 1

// tableName is the name of both our tables.
const tableName = "nfproxy"

// Tables returns the names of our tables.
func TableIDs() []nft.TableID {
	return []nft.TableID{schemaIPv4.Table, schemaIPv6.Table}
}

// schema is the declarations of one family's sets. Keys begin with the frontend but for those of clusterIPs,
// serviceCIDRs, localSources and hairpin.
type Schema struct {
	Table nft.TableID
	// services says where a frontend's connections go.
	Services *nft.Set
	// admitted says it for those that sourceRanges let in.
	Admitted, SourceRanges *nft.Set
	// fromNode and fromOutside say it for policy Local: for this node's pods and itself, and for everybody else.
	FromNode, FromOutside *nft.Set
	// endpoints has, for each frontend, one endpoint per slot; localEndpoints those of this node, for fromOutside.
	Endpoints, LocalEndpoints *nft.Set
	// connections says how connections that came to a frontend are masqueraded, if not as those to a cluster IP.
	Connections *nft.Set
	// clusterIPs are the Services' own addresses.
	ClusterIPs *nft.Set
	// serviceCIDRs are the ranges these come from.
	ServiceCIDRs *nft.Set
	// localSources are the sources that are pods.
	LocalSources *nft.Set
	// hairpin has each local endpoint's address twice: who reaches it from itself must be masqueraded.
	Hairpin *nft.Set
}

// The declarations are data: nothing changes them.
var schemaIPv4, schemaIPv6 = newSchema(nft.IPv4), newSchema(nft.IPv6)

func newSchema(f nft.Family) *Schema {
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
	s := &Schema{
		Table:          table,
		Services:       verdicts("services"),
		Admitted:       verdicts("admitted"),
		SourceRanges:   set("source-ranges", append(slices.Clone(key), addr)...),
		FromNode:       verdicts("from-node"),
		FromOutside:    verdicts("from-outside"),
		Endpoints:      slots("endpoints"),
		LocalEndpoints: slots("local-endpoints"),
		Connections:    verdicts("connections"),
		ClusterIPs:     set("cluster-ips", addr),
		ServiceCIDRs:   set("service-cidrs", addr),
		LocalSources:   set("local-sources", addr),
		Hairpin:        set("hairpin", addr, addr),
	}
	s.SourceRanges.Interval, s.ServiceCIDRs.Interval, s.LocalSources.Interval = true, true, true
	return s
}

// ofServices are the sets whose elements come with Services.
func (s *Schema) ofServices() []*nft.Set {
	return []*nft.Set{s.ClusterIPs, s.Hairpin, s.Services, s.SourceRanges, s.Admitted, s.FromNode, s.FromOutside,
		s.Endpoints, s.LocalEndpoints, s.Connections}
}

// counts says whether elements of a set count on a node: those of a frontend, and those of its endpoints.
func (s *Schema) counts(set *nft.Set, by Counters) bool {
	switch set {
	case s.Services, s.Admitted, s.FromNode, s.FromOutside: // what the first has and the others have not was dropped
		return by != CountNothing
	case s.Endpoints, s.LocalEndpoints:
		return by == CountEndpoints
	}
	return false
}

// declared returns the declaration of a set as it is on a node.
func (n Node) declared(set *nft.Set) *nft.Set {
	if !SchemaOf(set.Table.Family).counts(set, n.Counters) {
		return set
	}
	counting := *set
	counting.Counter = true
	return &counting
}

// hasSlots says whether a set's keys are slots of frontends.
func hasSlots(s *nft.Set) bool { return s.Key[len(s.Key)-1] == nft.SlotNumber }

// isServices says whether a set is a services map: a Service has a frontend if it has an element there.
func isServices(s *nft.Set) bool { return s == schemaIPv4.Services || s == schemaIPv6.Services }

// isConnections says whether a set is a connections map: its comments are the kinds of frontends.
func isConnections(s *nft.Set) bool {
	return s == schemaIPv4.Connections || s == schemaIPv6.Connections
}

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

func SchemaOf(f nft.Family) *Schema {
	if f == nft.IPv6 {
		return schemaIPv6
	}
	return schemaIPv4
}

// balancer is a load balancing chain: by where it looks the endpoints up and how many there are.
type BalancingChain struct {
	Family    nft.Family
	Local     bool
	Endpoints int
}

func (b BalancingChain) Verdict() nft.Verdict { return nft.GotoChain(b.Name()) }

func (b BalancingChain) Name() string {
	if b.Local {
		return fmt.Sprintf("local-lb-%d", b.Endpoints)
	}
	return fmt.Sprintf("lb-%d", b.Endpoints)
}

// balancerOf returns the balancer that a verdict goes to; it says false for another verdict.
func BalancingChainOf(f nft.Family, v nft.Verdict) (BalancingChain, bool) {
	name, local := strings.CutPrefix(v.Chain, "local-")
	digits, ok := strings.CutPrefix(name, "lb-")
	n, err := strconv.Atoi(digits)
	return BalancingChain{f, local, n}, ok && err == nil && v.Kind == nft.Goto
}

// maxLabel is how long nft lets a comment be that it reads (NFTNL_UDATA_COMMENT_MAXLEN): a longer one could be written
// over netlink, but the listing would not load again.
const maxLabel = 128

// label is the comment that says which Service port a frontend belongs to: namespace/name:port, without the port where
// that gets too long. namespace/name always fits.
func Label(n ServiceName, port string) string {
	if port == "" {
		return n.String()
	}
	if l := n.String() + ":" + port; len(l) <= maxLabel {
		return l
	}
	return n.String()
}

// parseLabel is label's inverse. It says false for a comment that is none of ours: names of Kubernetes are printable.
func ParseLabel(l string) (n ServiceName, port string, ok bool) {
	if strings.ContainsFunc(l, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return n, port, false
	}
	l, port, _ = strings.Cut(l, ":")
	n.Namespace, n.Name, ok = strings.Cut(l, "/")
	return n, port, ok
}

// perService is the name of a set or chain that a Service has for itself, "" of any other.
func DedicatedName(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return ""
}

// CheckSchema returns an error for a table that Explain cannot read, since another version or somebody else made it.
func CheckSchema(t *nft.Table) error {
	if want := schemaComment(); t.Comment != want {
		return fmt.Errorf("table %s is not one that this version of nfproxy makes: its comment is %q, not %q", t.TableID, t.Comment, want)
	}
	return nil
}

// schemaComment is the comment of our tables.
func schemaComment() string { return fmt.Sprintf("nfproxy schema %d", SchemaVersion) }

// The chains' names. None is a keyword of nft.
const (
	DispatchChain          = "dispatch"
	RefuseChain            = "refuse"
	SourceRangesChain      = "source-ranges"
	ExternalLocalChain     = "external-local"
	ConnectionsChain       = "service-connections"
	MasqueradeClusterChain = "masquerade-cluster"
	MasqueradeNodeChain    = "masquerade-node"
	MasqueradeAllChain     = "masquerade-all"
)

// slotsOf finds the elements of a frontend among those of an endpoints map, in order of their slots.
func SlotsOf(elements []nft.Element, frontend nft.Value) []nft.Element {
	first, _ := slices.BinarySearchFunc(elements, frontend, func(e nft.Element, key nft.Value) int {
		return strings.Compare(string(e.Key), string(key))
	})
	last := first
	for last < len(elements) && strings.HasPrefix(string(elements[last].Key), string(frontend)) {
		last++
	}
	return elements[first:last]
}
