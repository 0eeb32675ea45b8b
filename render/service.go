package render

import (
	"iter"
	"net/netip"
	"slices"

	"nfproxy/nft"
)

// ServiceRules is the part of the tables that belongs to one Service.
type ServiceRules struct {
	// Fragment holds the elements in the sets that all Services share, but for those in slots.
	Fragment nft.Fragment
	slots    []slots
	// Dedicated holds the chains and maps of a Service with session affinity, nil for other Services.
	Dedicated *DedicatedObjects
}

// RulesOf returns the rules of one Service on a node. They depend on nothing else, not even on the order of the Service's
// slices. Endpoints take the slots in order of their addresses.
func RulesOf(n Node, s Service) ServiceRules {
	b := serviceBuilder{node: n, service: s, taken: make(map[nft.Value]bool), admitted: admittedByFamily(n, s)}
	for _, addr := range n.supported(s.ClusterIPs) {
		b.add(n.Instance.SchemaOf(Family(addr)).ClusterIPs, nft.Element{Key: nft.Addr(addr)})
	}
	addresses := FrontendAddressesOf(n, s)
	b.addAddresses(addresses)
	for _, p := range s.Ports {
		b.families = make(map[nft.Family]*portFamily)
		for kind, at := range p.Frontends(addresses) {
			b.frontend(kind, p, at.Addr(), at.Port())
		}
	}
	b.fragment.Sort()
	slices.SortFunc(b.slots, slots.compare)
	// The rules are kept as long as the Service exists: Clone drops the spare capacity.
	return ServiceRules{slices.Clone(compact(b.fragment)), slices.Clone(b.slots), dedicatedObjects(b.affinities)}
}

// FrontendAddresses are the addresses at which a node serves the ports of a Service, by kind.
type FrontendAddresses struct {
	cluster, external, loadBalancer, node []netip.Addr
}

// FrontendAddressesOf returns the addresses at which a node serves the ports of a Service. All ports have the same.
func FrontendAddressesOf(n Node, s Service) FrontendAddresses {
	families := s.Families()
	served := func(addrs []netip.Addr) []netip.Addr {
		other := func(addr netip.Addr) bool { return !families.Has(Family(addr)) || n.IPv4Only && addr.Is6() }
		if !slices.ContainsFunc(addrs, other) {
			return addrs
		}
		return slices.DeleteFunc(slices.Clone(addrs), other)
	}
	return FrontendAddresses{
		cluster:      served(s.ClusterIPs),
		external:     served(n.ExternalIPs.of(s.ExternalIPs)),
		loadBalancer: served(n.LoadBalancerIPs.of(s.LoadBalancerIPs)),
		node:         served(n.Addresses),
	}
}

// Frontends returns every address and port at which the port is reached, with its kind. It can name the same one twice.
func (p Port) Frontends(at FrontendAddresses) iter.Seq2[Kind, netip.AddrPort] {
	return func(yield func(Kind, netip.AddrPort) bool) {
		all := func(kind Kind, addrs []netip.Addr, port uint16) bool {
			for _, addr := range addrs {
				if !yield(kind, netip.AddrPortFrom(addr, port)) {
					return false
				}
			}
			return true
		}
		_ = all(ClusterIP, at.cluster, p.Port) && all(ExternalIP, at.external, p.Port) && all(LoadBalancer, at.loadBalancer, p.Port) &&
			(p.NodePort == 0 || all(NodePort, at.node, p.NodePort))
	}
}

// serviceBuilder builds the rules of a Service.
type serviceBuilder struct {
	node       Node
	service    Service
	fragment   nft.Fragment
	slots      []slots
	taken      map[nft.Value]bool // keys of existing frontends: the first port or address wins
	admitted   map[nft.Family][]netip.Prefix
	families   map[nft.Family]*portFamily // of the current port
	affinities []*affinity
}

// portFamily holds what all frontends of a port in one family have in common.
type portFamily struct {
	schema   *Schema
	selected Selection
	// cluster and local are the endpoints of selected as data of maps, clusterSlots and localSlots the same in slots, for any frontend.
	cluster, local           nft.Value
	clusterSlots, localSlots slots
	affinity                 *affinity // nil for none
}

func (b *serviceBuilder) add(s *nft.Set, e nft.Element) {
	b.fragment = append(b.fragment, nft.Member{Set: s, Element: e})
}

// frontend adds the elements of a frontend, the port of the Service at an address.
func (b *serviceBuilder) frontend(kind Kind, p Port, addr netip.Addr, port uint16) {
	key := Frontend{netip.AddrPortFrom(addr, port), p.Protocol}.Key()
	if b.taken[key] {
		return
	}
	b.taken[key] = true
	f := frontendBuilder{serviceBuilder: b, portFamily: b.family(p, Family(addr)), key: key, kind: kind}
	action := b.limit(f.schema, key, f.verdict())
	if kind == LoadBalancer {
		action = b.restrict(f.schema, key, action)
	}
	b.add(f.schema.Services, nft.Element{Key: key, Data: action.Value(), Comment: Label(b.service.ServiceName, p.Name)})
}

// family returns the common part of the current port in a family. The first call selects the endpoints.
func (b *serviceBuilder) family(p Port, f nft.Family) *portFamily {
	if s := b.families[f]; s != nil {
		return s
	}
	s := &portFamily{schema: b.node.Instance.SchemaOf(f), selected: Select(b.node, p, f)}
	s.cluster, s.local = pack(s.selected.Cluster), pack(s.selected.Local)
	s.clusterSlots, s.localSlots = b.inSlots(s.selected.Cluster, s.cluster), b.inSlots(s.selected.Local, s.local)
	b.families[f] = s
	b.addHairpins(s.schema, s.selected)
	if b.service.Affinity > 0 {
		s.affinity = b.addAffinity(newAffinity(b.node, b.service, p, s))
	}
	return s
}

// inSlots returns endpoints, whose data are given, in slots, for a set and a frontend that are not set yet.
func (b *serviceBuilder) inSlots(endpoints []Endpoint, data nft.Value) slots {
	if b.node.hashes(b.service, endpoints) {
		return b.node.maglevSlots(b.service.Hashing, endpoints, data)
	}
	all := repeated(data, slotCounts(endpoints))
	return slots{endpoints: all, sorted: all}
}

// addAffinity adds an affinity and returns it. If two ports have the same name and protocol, which no source lets through, it
// returns that of the first: two maps with one name would fail the batch.
func (b *serviceBuilder) addAffinity(a *affinity) *affinity {
	for _, have := range b.affinities {
		if have.schema == a.schema && have.id == a.id {
			return have
		}
	}
	b.affinities = append(b.affinities, a)
	return a
}

// frontendBuilder adds the elements of one frontend.
type frontendBuilder struct {
	*serviceBuilder
	*portFamily
	key  nft.Value
	kind Kind
}

// verdict adds the elements that the action and the masquerade class of the frontend need, and returns the verdict for the
// services map.
func (f *frontendBuilder) verdict() nft.Verdict {
	action, _ := RouteOf(f.kind, f.service, f.selected)
	class, _ := MasqueradeOf(f.kind, f.service)
	switch action {
	case Refuse:
		if f.kind != ClusterIP { // no packet looks it up, but it holds the kind
			f.add(f.schema.Connections, nft.Element{Key: f.key, Data: nft.GotoChain(MasqueradeAllChain).Value(), Comment: string(f.kind)})
		}
		return nft.GotoChain(RefuseChain)
	case Drop:
		return nft.Verdict{Kind: nft.Drop}
	case Split:
		f.masquerade(class, action)
		f.add(f.schema.FromNode, nft.Element{Key: f.key, Data: f.balance(false).Value()})
		if len(f.selected.Local) > 0 {
			f.add(f.schema.FromOutside, nft.Element{Key: f.key, Data: f.balance(true).Value()})
		}
		return nft.GotoChain(ExternalLocalChain)
	}
	f.masquerade(class, action)
	return f.balance(action == ToLocal)
}

// masquerade adds the element that sends connections to the chain of their masquerade class. With session affinity they pass a
// chain that records the client, and connections to this node itself have an element of their own. A cluster IP without affinity
// needs no element: the cluster-ips set is enough.
func (f *frontendBuilder) masquerade(class MasqueradeClass, action Action) {
	v := nft.GotoChain(class.chain())
	switch {
	case f.affinity != nil:
		v = f.affinity.recordLeaving(class, action)
		f.add(f.schema.Delivered, nft.Element{Key: f.key, Data: f.affinity.recordDelivered(action).Value()})
	case f.kind == ClusterIP:
		return
	}
	f.add(f.schema.Connections, nft.Element{Key: f.key, Data: v.Value(), Comment: string(f.kind)})
}

// balance adds the slots of the frontend and returns the verdict that chooses among them.
func (f *frontendBuilder) balance(local bool) nft.Verdict {
	s := f.clusterSlots
	s.set, s.frontend = f.schema.Endpoints, f.key
	if local {
		s = f.localSlots
		s.set, s.frontend = f.schema.LocalEndpoints, f.key
	}
	size := s.bySlot().len()
	if size > 0 {
		f.slots = append(f.slots, s)
	}
	if s.hashing == NoHashing {
		size = balancingSize(size)
	}
	v := BalancingChain{f.schema.Table.Family, local, size, s.hashing}.Verdict()
	if f.affinity != nil {
		return f.affinity.lookup(v, local)
	}
	return v
}

// restrict returns the verdict that admits only the sources of admittedSources to an action. If all sources are admitted, it
// returns the action.
func (b *serviceBuilder) restrict(sc *Schema, key nft.Value, action nft.Verdict) nft.Verdict {
	admitted := b.admitted[sc.Table.Family]
	if admitted == nil {
		return action
	}
	for _, p := range admitted {
		b.add(sc.SourceRanges, nft.Element{Key: frontendRangeKey(key, p)})
	}
	b.add(sc.Admitted, nft.Element{Key: key, Data: action.Value()})
	return nft.GotoChain(SourceRangesChain)
}

// admittedByFamily returns the admittedSources of both families.
func admittedByFamily(n Node, s Service) map[nft.Family][]netip.Prefix {
	if len(s.SourceRanges) == 0 {
		return nil
	}
	return map[nft.Family][]netip.Prefix{nft.IPv4: admittedSources(n, s, nft.IPv4), nft.IPv6: admittedSources(n, s, nft.IPv6)}
}

// admittedSources returns the sources of a family that reach the load balancer addresses of a Service: its source ranges. It
// returns nil if all sources do, because the family has no range or one that contains all addresses. If the ranges admit the
// node, they admit the addresses of the load balancer too: these may be bound on the node and be the source of its connections
// (kube-proxy does the same).
func admittedSources(n Node, s Service, f nft.Family) []netip.Prefix {
	ranges := outermost(s.SourceRanges, f)
	if len(ranges) == 0 || ranges[0].Bits() == 0 {
		return nil
	}
	return outermost(append(ranges, sourcesOfNode(n, s, ranges)...), f)
}

// sourcesOfNode returns the load balancer's addresses if the ranges admit the node.
func sourcesOfNode(n Node, s Service, ranges []netip.Prefix) []netip.Prefix {
	var sources []netip.Prefix
	for _, r := range ranges {
		for _, addr := range n.IPs {
			if !r.Contains(addr) {
				continue
			}
			for _, lb := range s.LoadBalancerIPs {
				sources = append(sources, netip.PrefixFrom(lb, lb.BitLen()))
			}
		}
	}
	return sources
}

// addHairpins adds the addresses of the endpoints on this node.
func (b *serviceBuilder) addHairpins(sc *Schema, s Selection) {
	for _, endpoints := range [][]Endpoint{s.Cluster, s.Local} {
		for i := range endpoints {
			if e := &endpoints[i]; e.isLocal(b.node) {
				b.add(sc.Hairpin, nft.Element{Key: nft.Addr(e.Addr()) + nft.Addr(e.Addr())})
			}
		}
	}
}

// compact removes all but the first of equal members: an address can be an endpoint of several ports.
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
