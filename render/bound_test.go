package render

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
)

// members returns the elements of the rules.
func (r ServiceRules) members() []nft.Member {
	return slices.Collect(objects{fragment: r.Fragment, slots: r.slots}.members)
}

// TestCost: the cost of a Service is the number of elements that RulesOf builds, plus a fixed number for each port and family with
// session affinity, and one for a limit for each client. With a limit it is exact up to the limit, and exceeds the limit otherwise.
func TestCost(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	kinds := make(map[string]int)
	for i := range 5000 {
		n, s := randomNode(r), randomService(r)
		rules := RulesOf(n, s)
		want := len(rules.members()) + affinityCost*portFamilies(n, s) + s.Limits.cost()
		if got := Cost(n, s, math.MaxInt); got != want {
			t.Fatalf("Service %d costs %d, but has %d elements and %d port families\nnode %+v\nservice %+v\nrules %v", i, got, len(rules.members()), portFamilies(n, s), n, s, rules.members())
		}
		if upper := maxCost(n, s); upper < want {
			t.Fatalf("Service %d: the upper bound is %d, the cost %d\nnode %+v\nservice %+v", i, upper, want, n, s)
		}
		limit := r.IntN(2*want + 1)
		if got := Cost(n, s, limit); got != want && (got <= limit || want <= limit) {
			t.Fatalf("Service %d costs %d, with limit %d: %d", i, want, limit, got)
		}
		for _, m := range rules.members() {
			kinds[m.Set.Name]++
		}
	}
	schema := SchemaOf(nft.IPv4)
	for _, set := range append(schema.ofServices(Node{UnservedPorts: DropUnserved, AnswerPing: true}), schema.ofLimits()...) {
		if kinds[set.Name] < 100 {
			t.Errorf("the test built %d elements of set %s", kinds[set.Name], set.Name)
		}
	}
}

// portFamilies returns the number of ports and families with session affinity.
func portFamilies(n Node, s Service) int {
	if s.Affinity == 0 {
		return 0
	}
	type portFamily struct {
		port   int
		family nft.Family
	}
	have, taken := make(map[portFamily]bool), make(map[Frontend]bool)
	for i, p := range s.Ports {
		for _, at := range p.Frontends(FrontendAddressesOf(n, s)) {
			if f := (Frontend{at, p.Protocol}); !taken[f] {
				taken[f], have[portFamily{i, Family(at.Addr())}] = true, true
			}
		}
	}
	return len(have)
}

// randomNode and randomService use few addresses and numbers, so that the same ones come up several times.
func randomNode(r *rand.Rand) Node {
	n := Node{Name: "n", Zone: "z", IPv4Only: r.IntN(8) == 0, Addresses: randomAddrs(r, "192.0.2.", "2001:db8::"), IPs: randomAddrs(r, "192.0.2.", "2001:db8::"),
		UnservedPorts: UnservedPorts(r.IntN(3)), AnswerPing: r.IntN(2) == 0}
	if r.IntN(4) == 0 {
		n.ExternalIPs = Allowlist{Only: true, Within: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/31"), netip.MustParsePrefix("::/0")}}
	}
	return n
}

func randomService(r *rand.Rand) Service {
	s := Service{ServiceName: ServiceName{"ns", "s"}, ExternalIPs: randomAddrs(r, "192.0.2.", "2001:db8::"), LoadBalancerIPs: randomAddrs(r, "192.0.2.", "2001:db8::"),
		InternalLocal: r.IntN(3) == 0, ExternalLocal: r.IntN(2) == 0, Affinity: time.Duration(r.IntN(2)) * time.Hour}
	if r.IntN(3) == 0 {
		s.Limits.Rate = perSecond(uint64(r.IntN(2)), 0)
		s.Limits.ClientRate = perSecond(uint64(r.IntN(2)), 0)
	}
	for _, addr := range randomAddrs(r, "10.96.0.", "fd00:96::") {
		if !slices.ContainsFunc(s.ClusterIPs, func(c netip.Addr) bool { return c.Is4() == addr.Is4() }) {
			s.ClusterIPs = append(s.ClusterIPs, addr)
		}
	}
	for _, text := range []string{"192.0.2.0/30", "192.0.2.1/32", "10.0.0.0/8", "2001:db8::/64", "0.0.0.0/0"} {
		if r.IntN(5) == 0 {
			s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(text))
		}
	}
	for i := range r.IntN(4) {
		p := Port{Name: fmt.Sprint("p", i), Protocol: []nft.Protocol{nft.TCP, nft.UDP}[r.IntN(2)], Port: uint16(80 + r.IntN(5)), NodePort: uint16(r.IntN(2) * (80 + r.IntN(5)))}
		for _, addr := range randomAddrs(r, "10.244.0.", "fd00:244::") {
			e := Endpoint{AddrPort: netip.AddrPortFrom(addr, uint16(8080+r.IntN(2))), Node: []string{"n", "m"}[r.IntN(2)], Ready: r.IntN(4) > 0, Serving: r.IntN(3) > 0, Terminating: r.IntN(2) == 0}
			if r.IntN(4) > 0 {
				e.Hints = &Hints{Zones: []string{[]string{"z", "y"}[r.IntN(2)]}}
			}
			p.Endpoints = append(p.Endpoints, e)
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

// randomAddrs returns up to five addresses, some of them twice.
func randomAddrs(r *rand.Rand, prefixes ...string) (all []netip.Addr) {
	for range r.IntN(6) {
		all = append(all, netip.MustParseAddr(fmt.Sprint(prefixes[r.IntN(len(prefixes))], r.IntN(4))))
	}
	return all
}

// wideService returns a Service with ports of both protocols, external and load balancer addresses, source ranges and endpoints
// behind each port.
func wideService(ports, addresses, ranges, endpoints int) Service {
	at := func(a byte, i int) netip.Addr {
		return netip.AddrFrom4([4]byte{a, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	s := Service{ServiceName: ServiceName{"ns", "wide"}, ClusterIPs: []netip.Addr{at(10, 1)}, HealthCheckNodePort: 32000, ExternalLocal: true}
	for i := range addresses {
		s.ExternalIPs = append(s.ExternalIPs, at(11, i))
	}
	for i := range ranges {
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, at(12, i))
		s.SourceRanges = append(s.SourceRanges, netip.PrefixFrom(at(13, 2*i), 32))
	}
	var to []Endpoint
	for i := range endpoints {
		to = append(to, Endpoint{AddrPort: netip.AddrPortFrom(at(14, i), 80), Node: "n", Ready: true, Serving: true})
	}
	for i := range ports {
		s.Ports = append(s.Ports, Port{Name: fmt.Sprint("p", i), Protocol: []nft.Protocol{nft.TCP, nft.UDP}[i&1], Port: uint16(i/2 + 1), NodePort: uint16(i/2 + 30000), Endpoints: to})
	}
	return s
}

// TestBound: what is left of a Service that costs too much. The bound is inclusive, and honest Services, however large, are within
// the default.
func TestBound(t *testing.T) {
	node := Node{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
	limited := func(limit int) Node { n := node; n.MaxServiceElements = uint32(limit); return n }
	small := wideService(4, 3, 2, 5)
	cost := Cost(node, small, math.MaxInt)
	shrunk := small
	shrunk.ExternalIPs, shrunk.LoadBalancerIPs = nil, nil
	half := Cost(node, shrunk, math.MaxInt)
	for _, tc := range []struct {
		name        string
		node        Node
		service     Service
		want        Excess
		healthCheck uint16
	}{
		{"exactly the bound", limited(cost), small, NoExcess, 32000},
		{"one element more", limited(cost - 1), small, WithoutAddresses, 0},
		{"the rest is exactly the bound", limited(half), small, WithoutAddresses, 0},
		{"the rest is one element more", limited(half - 1), small, WithoutPorts, 0},
		{"no addresses to leave out", limited(half - 1), shrunk, WithoutPorts, 0},
		{"external IPs only", limited(half), withAddresses(small, small.ExternalIPs, nil), WithoutAddresses, 32000},
		{"10,000 endpoints", node, wideService(1, 1, 1, 10_000), NoExcess, 32000},
		{"as many endpoints as a frontend can have", node, withAddresses(wideClusterIP(1, MaxEndpoints), nil, nil), NoExcess, 32000},
		{"100 ports, 100 endpoints, load balancer with source ranges", node, wideService(100, 1, 1, 100), NoExcess, 32000},
		{"1,000 ports, 20 endpoints, four addresses", node, withAddresses(wideClusterIP(1000, 20), wideService(0, 3, 0, 0).ExternalIPs, nil), NoExcess, 32000},
		{"1,000 ports, 2,000 external IPs", node, wideService(1000, 2000, 0, 1), WithoutAddresses, 32000},
		{"100 ports, 1,000 load balancer addresses with 1,000 source ranges", node, wideService(100, 0, 1000, 1), WithoutAddresses, 0},
		{"50,000 ports, 3 endpoints", node, wideClusterIP(50_000, 3), WithoutPorts, 0},
	} {
		got := Bound(tc.node, tc.service)
		if got.Excess != tc.want || got.HealthCheckNodePort != tc.healthCheck {
			t.Errorf("%s: %d (%s), health check node port %d; want %d and %d", tc.name, got.Excess, got.Excess, got.HealthCheckNodePort, tc.want, tc.healthCheck)
		}
		if tc.want == NoExcess && !reflect.DeepEqual(got, tc.service) {
			t.Errorf("%s: the Service changed", tc.name)
		}
		if cost := Cost(tc.node, got, math.MaxInt); cost > tc.node.maxServiceElements() {
			t.Errorf("%s: what is left costs %d", tc.name, cost)
		}
		if tc.want != NoExcess && len(got.Unserved) != len(tc.service.ExternalIPs)+len(tc.service.LoadBalancerIPs) {
			t.Errorf("%s: %d addresses are not served", tc.name, len(got.Unserved))
		}
	}
}

func withAddresses(s Service, external, balancers []netip.Addr) Service {
	s.ExternalIPs, s.LoadBalancerIPs = external, balancers
	return s
}

// wideClusterIP is like wideService without node ports and with policy Cluster.
func wideClusterIP(ports, endpoints int) Service {
	s := wideService(ports, 0, 0, endpoints)
	s.ExternalLocal = false
	for i := range s.Ports {
		s.Ports[i].NodePort = 0
		for j := range s.Ports[i].Endpoints {
			s.Ports[i].Endpoints[j].Node = "m"
		}
	}
	s.HealthCheckNodePort = 32000
	return s
}

// TestBoundIsCheap: to bound the most expensive Services that fit into an object, and to build what is left of them, takes little
// memory, whatever they would have cost.
func TestBoundIsCheap(t *testing.T) {
	node := Node{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
	for _, tc := range []struct {
		name    string
		service Service
	}{
		{"1,000 ports, 2,000 external IPs", wideService(1000, 2000, 0, 1)},
		{"1,000 ports, 40,000 external IPs", wideService(1000, 40_000, 0, 1)},
		{"1,000 ports, 5,000 load balancer addresses with 5,000 source ranges", wideService(1000, 0, 5000, 1)},
		{"20,000 ports, 10,000 external IPs of a family that it does not have", otherFamily(wideService(20_000, 10_000, 0, 1))},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		s := Bound(node, tc.service)
		took := time.Since(start)
		index := NewFlowIndex()
		index.Take(Update{Node: node, Services: []Service{s}}, func(Frontend) ServiceName { return s.ServiceName })
		rules := RulesOf(node, s)
		runtime.ReadMemStats(&after)
		t.Logf("%s: %s; bounded in %s; %d elements", tc.name, s.Excess, took, len(rules.members()))
		if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 150<<20 {
			t.Errorf("%s: allocates %d MB", tc.name, bytes>>20)
		}
		if len(rules.members()) > DefaultMaxServiceElements {
			t.Errorf("%s: %d elements", tc.name, len(rules.members()))
		}
	}
}

// otherFamily makes the external IPs IPv6 addresses.
func otherFamily(s Service) Service {
	for i, addr := range s.ExternalIPs {
		four := addr.As4()
		s.ExternalIPs[i] = netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 12: four[0], 13: four[1], 14: four[2], 15: four[3]})
	}
	return s
}
