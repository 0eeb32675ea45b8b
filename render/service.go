package render

import (
	"cmp"
	"net/netip"
	"slices"

	"nfproxy/nft"
)

// Kind is what a frontend's address is to its Service.
type Kind string

// The kinds of frontends. In the kernel they are the comments of the connections map.
const (
	ClusterIP    Kind = "ClusterIP"
	ExternalIP   Kind = "ExternalIP"
	LoadBalancer Kind = "LoadBalancer"
	NodePort     Kind = "NodePort"
)

// kindOf reads the comment that the connections map has for a frontend. It has all frontends but cluster IPs, and of these
// the ones that remember clients.
func KindOf(comment string) Kind { return cmp.Or(Kind(comment), ClusterIP) }

// Part is what one Service has in the tables.
type ServiceRules struct {
	// Fragment is its elements in the sets that all Services share.
	Fragment nft.Fragment
	// Own is what nobody else has: of Services with session affinity. Others have nil.
	Dedicated *DedicatedObjects
}

// PartOf returns the part of the tables that belongs to one Service: the same node and Service give the same part,
// whatever order they come in. Endpoints take the slots in order of their addresses.
func RulesOf(n Node, s Service) ServiceRules {
	b := serviceBuilder{node: n, service: s, taken: make(map[nft.Value]bool)}
	for _, addr := range n.supported(s.ClusterIPs) {
		b.add(SchemaOf(Family(addr)).ClusterIPs, nft.Element{Key: nft.Addr(addr)})
	}
	for _, p := range s.Ports {
		b.families = make(map[nft.Family]*portFamily)
		p.Frontends(n, s, func(kind Kind, at netip.AddrPort) { b.frontend(kind, p, at.Addr(), at.Port()) })
	}
	b.fragment.Sort()
	// Held for as long as the Service lives: without the room that appending made.
	return ServiceRules{slices.Clone(compact(b.fragment)), dedicatedObjects(b.affinities)}
}

// frontends goes through where a port of the Service is reached on the node. One can come twice.
func (p Port) Frontends(n Node, s Service, each func(Kind, netip.AddrPort)) {
	for _, addr := range n.supported(s.ClusterIPs) {
		each(ClusterIP, netip.AddrPortFrom(addr, p.Port))
	}
	for _, addr := range n.supported(n.ExternalIPs.of(s.ExternalIPs)) {
		each(ExternalIP, netip.AddrPortFrom(addr, p.Port))
	}
	for _, addr := range n.supported(n.LoadBalancerIPs.of(s.LoadBalancerIPs)) {
		each(LoadBalancer, netip.AddrPortFrom(addr, p.Port))
	}
	if p.NodePort == 0 {
		return
	}
	for _, addr := range n.supported(n.Addresses) {
		each(NodePort, netip.AddrPortFrom(addr, p.NodePort))
	}
}

// builder gathers the fragment of a Service.
type serviceBuilder struct {
	node     Node
	service  Service
	fragment nft.Fragment
	taken    map[nft.Value]bool // frontends there are already: the first port or address has them
	// served is what the frontends of the port under way have in common, per family.
	families   map[nft.Family]*portFamily
	affinities []*affinity
}

// served is what all frontends of a port in one family have in common.
type portFamily struct {
	schema   *Schema
	selected Selection
	affinity *affinity // nil for none
}

func (b *serviceBuilder) add(s *nft.Set, e nft.Element) {
	b.fragment = append(b.fragment, nft.Member{Set: s, Element: e})
}

// frontend makes one port of the Service reachable at an address.
func (b *serviceBuilder) frontend(kind Kind, p Port, addr netip.Addr, port uint16) {
	key := nft.Addr(addr) + nft.Proto(p.Protocol) + nft.Port(port)
	if b.taken[key] {
		return
	}
	b.taken[key] = true
	f := frontendBuilder{serviceBuilder: b, portFamily: b.family(p, Family(addr)), key: key, kind: kind}
	action := f.verdict()
	if kind == LoadBalancer {
		action = b.restrict(f.schema, key, action)
	}
	b.add(f.schema.Services, nft.Element{Key: key, Data: action.Value(), Comment: Label(b.service.ServiceName, p.Name)})
}

// serve chooses the endpoints of a port for a family, when its first frontend asks.
func (b *serviceBuilder) family(p Port, f nft.Family) *portFamily {
	if s := b.families[f]; s != nil {
		return s
	}
	s := &portFamily{schema: SchemaOf(f), selected: Select(b.node, p, f)}
	b.families[f] = s
	b.addHairpins(s.schema, s.selected)
	if b.service.Affinity > 0 {
		s.affinity = b.addAffinity(newAffinity(s.schema, b.node, b.service, p, s.selected))
	}
	return s
}

// enter returns the affinity of that name: of two ports with one name and protocol, which no source lets through, the
// first has it. Two maps of one name would fail the batch.
func (b *serviceBuilder) addAffinity(a *affinity) *affinity {
	for _, have := range b.affinities {
		if have.schema == a.schema && have.id == a.id {
			return have
		}
	}
	b.affinities = append(b.affinities, a)
	return a
}

// frontendBuilder decides for one frontend.
type frontendBuilder struct {
	*serviceBuilder
	*portFamily
	key  nft.Value
	kind Kind
}

// verdict fills in what the route and the masquerade class of the frontend take, and returns where services leads.
func (f *frontendBuilder) verdict() nft.Verdict {
	action, _ := RouteOf(f.kind, f.service, f.selected)
	class, _ := MasqueradeOf(f.kind, f.service)
	switch action {
	case Refuse:
		if f.kind != ClusterIP { // nobody gets as far, but it tells the kind
			f.add(f.schema.Connections, nft.Element{Key: f.key, Data: nft.GotoChain(MasqueradeAllChain).Value(), Comment: string(f.kind)})
		}
		return nft.GotoChain(RefuseChain)
	case Drop:
		return nft.Verdict{Kind: nft.Drop}
	case Split:
		f.masquerade(class, false)
		f.add(f.schema.FromNode, nft.Element{Key: f.key, Data: f.balance(false).Value()})
		if len(f.selected.Local) > 0 {
			f.add(f.schema.FromOutside, nft.Element{Key: f.key, Data: f.balance(true).Value()})
		}
		return nft.GotoChain(ExternalLocalChain)
	}
	local := action == ToLocal
	f.masquerade(class, local)
	return f.balance(local)
}

// masquerade says by which class connections are masqueraded. A client is remembered on the way. Without affinity, being a
// cluster IP says all there is to it.
func (f *frontendBuilder) masquerade(class MasqueradeClass, local bool) {
	v := nft.GotoChain(class.chain())
	switch {
	case f.affinity != nil:
		v = f.affinity.record(class.chain(), local)
	case f.kind == ClusterIP:
		return
	}
	f.add(f.schema.Connections, nft.Element{Key: f.key, Data: v.Value(), Comment: string(f.kind)})
}

// balance fills the slots of the frontend and returns the verdict that chooses among them.
func (f *frontendBuilder) balance(local bool) nft.Verdict {
	slots, endpoints := f.schema.Endpoints, f.selected.Cluster
	if local {
		slots, endpoints = f.schema.LocalEndpoints, f.selected.Local
	}
	for i, to := range endpointValues(endpoints) {
		f.add(slots, nft.Element{Key: f.key + nft.Slot(uint16(i)), Data: to})
	}
	v := BalancingChain{f.schema.Table.Family, local, len(endpoints)}.Verdict()
	if f.affinity != nil {
		return f.affinity.lookup(v, local)
	}
	return v
}

// values are endpoints as data of maps.
func endpointValues(endpoints []Endpoint) []nft.Value {
	all := make([]nft.Value, len(endpoints))
	for i, e := range endpoints {
		all[i] = nft.Addr(e.Addr()) + nft.Port(e.Port())
	}
	return all
}

// restrict lets only the Service's source ranges through to the action, if it has any of the family. One that holds every
// address lifts the restriction. Where the node itself is let in, so is the load balancer's address: it may be bound to
// the node, and then be the source of the node's connections (kube-proxy does the same).
func (b *serviceBuilder) restrict(sc *Schema, key nft.Value, action nft.Verdict) nft.Verdict {
	ranges := outermost(b.service.SourceRanges, sc.Table.Family)
	if len(ranges) == 0 || ranges[0].Bits() == 0 {
		return action
	}
	for _, p := range outermost(append(ranges, b.sourcesOfNode(ranges)...), sc.Table.Family) {
		i := nft.Interval(p)
		b.add(sc.SourceRanges, nft.Element{Key: key + i[:len(i)/2] + key + i[len(i)/2:]})
	}
	b.add(sc.Admitted, nft.Element{Key: key, Data: action.Value()})
	return nft.GotoChain(SourceRangesChain)
}

// ownAddresses are the load balancer's addresses, if the ranges let the node in.
func (b *serviceBuilder) sourcesOfNode(ranges []netip.Prefix) []netip.Prefix {
	var own []netip.Prefix
	for _, r := range ranges {
		for _, addr := range b.node.Addresses {
			if !r.Contains(addr) {
				continue
			}
			for _, lb := range b.service.LoadBalancerIPs {
				own = append(own, netip.PrefixFrom(lb, lb.BitLen()))
			}
		}
	}
	return own
}

func (b *serviceBuilder) addHairpins(sc *Schema, s Selection) {
	for _, endpoints := range [][]Endpoint{s.Cluster, s.Local} {
		for _, e := range endpoints {
			if e.isLocal(b.node) {
				b.add(sc.Hairpin, nft.Element{Key: nft.Addr(e.Addr()) + nft.Addr(e.Addr())})
			}
		}
	}
}

// compact removes members that come twice: an address can be an endpoint of several ports. What comes first stays.
func compact(f nft.Fragment) nft.Fragment {
	kept := f[:0]
	for i, m := range f {
		if i > 0 && m.Set == f[i-1].Set && m.Key == f[i-1].Key {
			continue
		}
		kept = append(kept, m)
	}
	return kept
}
