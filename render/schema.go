package render

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"nfproxy/nft"
)

// SchemaVersion is the version of the shape of the tables. The comment of a table contains it; a table of another version is
// replaced.
const SchemaVersion = 1

// Schema holds the declarations of the sets and maps of one family. The keys of most begin with a frontend: those of ClusterIPs,
// ExternalAddresses, Ping, Refusals, ServiceCIDRs, LocalSources and Hairpin do not.
type Schema struct {
	Table nft.TableID
	// Services maps a frontend to the verdict for its connections.
	Services *nft.Set
	// SourceRanges holds the admitted sources of a frontend with source ranges, Admitted the verdict for their connections.
	Admitted, SourceRanges *nft.Set
	// Rates holds the limits of frontends on new connections, OverLimit the verdict for connections that exceed a limit, and WithinLimit
	// that for all others. They exist once a Service has limits.
	Rates, OverLimit, WithinLimit *nft.Set
	// FromNode and FromOutside hold the verdicts of a frontend with externalTrafficPolicy Local: for connections from this node
	// and its Pods, and for all others.
	FromNode, FromOutside *nft.Set
	// Endpoints maps the slots of a frontend to its endpoints, LocalEndpoints to its endpoints on this node.
	Endpoints, LocalEndpoints *nft.Set
	// Connections maps a frontend to the chain that masquerades its connections. A frontend at a cluster IP without session
	// affinity has no element.
	Connections *nft.Set
	// Delivered maps a frontend with session affinity to the chain that records the clients of connections to this node itself.
	Delivered *nft.Set
	// ClusterIPs holds the cluster IPs of all Services.
	ClusterIPs *nft.Set
	// ExternalAddresses holds the external IPs and the load balancer addresses of all Services. It exists only if the node decides
	// about their unserved ports.
	ExternalAddresses *nft.Set
	// Ping holds the addresses of Services that answer pings. It exists only if the node answers them.
	Ping *nft.Set
	// Refusals leads packets to addresses in ClusterIPs or ExternalAddresses to RefuseChain. Its one key is the direction original, which
	// all packets in chains of type nat have. It is a map so that it becomes ineffective together with Services: when another program
	// deletes the table, the kernel deactivates the elements of maps at once, but not those of sets (nft_mapelem_deactivate in
	// net/netfilter/nf_tables_api.c, Linux 6.9).
	Refusals *nft.Set
	// ServiceCIDRs holds the ranges of cluster IPs.
	ServiceCIDRs *nft.Set
	// LocalSources holds the source addresses of Pods.
	LocalSources *nft.Set
	// Hairpin holds the address of each endpoint on this node twice, as source and destination: the connection of an endpoint
	// to itself must be masqueraded.
	Hairpin *nft.Set
}

func newSchema(table nft.TableID) *Schema {
	addr := table.Family.AddrType()
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
		Table:             table,
		Services:          verdicts(servicesSet),
		Admitted:          verdicts("admitted"),
		SourceRanges:      set("source-ranges", append(slices.Clone(key), addr)...),
		Rates:             set("rates", key...),
		OverLimit:         verdicts("over-limit"),
		WithinLimit:       verdicts("within-limit"),
		FromNode:          verdicts("from-node"),
		FromOutside:       verdicts("from-outside"),
		Endpoints:         slots("endpoints"),
		LocalEndpoints:    slots("local-endpoints"),
		Connections:       verdicts(connectionsSet),
		Delivered:         verdicts(deliveredSet),
		ClusterIPs:        set("cluster-ips", addr),
		ExternalAddresses: set("external-addresses", addr),
		Ping:              set("ping", addr),
		Refusals:          set("refusals", nft.CtDirection),
		ServiceCIDRs:      set("service-cidrs", addr),
		LocalSources:      set("local-sources", addr),
		Hairpin:           set("hairpin", addr, addr),
	}
	// nft loads elements with limits only into a set that is declared with a limit, whatever its rate is.
	s.Rates.Data, s.Rates.Limit = []nft.Type{nft.LimitType}, &nft.Limit{Packets: 1, Per: time.Second, Burst: leastBurst}
	s.OverLimit.Counter = true
	s.Refusals.Data = []nft.Type{nft.VerdictType}
	s.SourceRanges.Interval, s.ServiceCIDRs.Interval, s.LocalSources.Interval = true, true, true
	return s
}

// SchemaOf returns the schema of a family in the zero Instance. The sets of other instances have the same names and types, so that it
// is enough for those who read tables.
func SchemaOf(f nft.Family) *Schema { return Instance{}.SchemaOf(f) }

// Family returns the family of an address.
func Family(a netip.Addr) nft.Family {
	if a.Is4() {
		return nft.IPv4
	}
	return nft.IPv6
}

// ofServices returns the sets that hold elements of Services on a node.
func (s *Schema) ofServices(n Node) []*nft.Set {
	sets := s.ofAllNodes()
	if n.UnservedPorts != PassUnserved {
		sets = append(sets, s.ExternalAddresses)
	}
	if n.AnswerPing {
		sets = append(sets, s.Ping)
	}
	return sets
}

// ofAllNodes returns the sets that hold elements of Services on every node, whatever its settings are.
func (s *Schema) ofAllNodes() []*nft.Set {
	return []*nft.Set{s.ClusterIPs, s.Hairpin, s.Services, s.SourceRanges, s.Admitted, s.FromNode, s.FromOutside,
		s.Endpoints, s.LocalEndpoints, s.Connections, s.Delivered}
}

// ofLimits returns the sets that hold elements of Services with limits.
func (s *Schema) ofLimits() []*nft.Set { return []*nft.Set{s.Rates, s.OverLimit, s.WithinLimit} }

// counts reports whether the elements of a set have counters.
func (s *Schema) counts(set *nft.Set, by Counters) bool {
	switch set {
	case s.Services, s.Admitted, s.FromNode, s.FromOutside: // connections that only Services counts were dropped
		return by != CountNothing
	case s.Endpoints, s.LocalEndpoints:
		return by == CountEndpoints
	}
	return false
}

// CounterKey returns what the counter of an element belongs to, for kernel.Conn: when elements are replaced, a counter
// passes on to the element with the same counter key. A frontend's counter belongs to its key and its action. All verdicts
// that balance are one action, whatever the size of the chain. An endpoint's counter belongs to its frontend and its
// address, whatever its slot.
func CounterKey(s *nft.Set, e nft.Element) nft.Value {
	switch {
	case s.IsVerdictMap():
		v := e.Data.Verdict()
		if b, ok := BalancingChainOf(s.Table.Family, v); ok {
			b.Size, b.Hashing = smallestSize, NoHashing
			v = b.Verdict()
		}
		return e.Key + v.Value()
	case hasSlots(s):
		return e.Key[:len(e.Key)-nft.SlotNumber.Width()] + e.Data
	}
	return e.Key
}

// declared returns the declaration of a set as it is on a node.
func (n Node) declared(set *nft.Set) *nft.Set {
	if !n.Instance.SchemaOf(set.Table.Family).counts(set, n.Counters) {
		return set
	}
	counting := *set
	counting.Counter = true
	return &counting
}

// hasSlots reports whether the keys of a set are slots of frontends.
func hasSlots(s *nft.Set) bool { return s.Key[len(s.Key)-1] == nft.SlotNumber }

// isServices reports whether a set is one of the services maps. A frontend exists if it has an element there.
func isServices(s *nft.Set) bool { return s.Name == servicesSet }

// isConnections reports whether a set is one of the connections maps. The comments of its elements are the kinds of frontends.
func isConnections(s *nft.Set) bool { return s.Name == connectionsSet }

// CheckSchema returns an error for a table that another version of nfproxy or another program made.
func CheckSchema(t *nft.Table) error {
	if want := schemaComment(); t.Comment != want {
		return fmt.Errorf("table %s was not made by this version of nfproxy: its comment is %q, not %q", t.TableID, t.Comment, want)
	}
	return nil
}

// schemaComment returns the comment of the tables.
func schemaComment() string { return fmt.Sprintf("nfproxy schema %d", SchemaVersion) }
