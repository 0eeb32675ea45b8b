package render

import (
	"net/netip"
	"slices"
	"testing"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// flowService returns a Service with UDP, SCTP and TCP ports at all kinds of addresses of both families.
func flowService() Service {
	return Service{
		ServiceName:     ServiceName{"test", "dns"},
		ClusterIPs:      addrs("10.96.0.10", "fd00:96::10"),
		ExternalIPs:     addrs("203.0.113.1"),
		LoadBalancerIPs: addrs("203.0.113.2", "2001:db8:1::2"),
		Ports: []Port{
			{Name: "dns", Protocol: nft.UDP, Port: 53, NodePort: 30053, Endpoints: flowEndpoints("10.244.1.2:5353", "[fd00:244::2]:5353")},
			{Name: "sctp", Protocol: nft.SCTP, Port: 9, Endpoints: flowEndpoints("10.244.1.2:9999")},
			{Name: "tcp", Protocol: nft.TCP, Port: 53, NodePort: 30053, Endpoints: flowEndpoints("10.244.1.2:5353")},
		},
	}
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func flowEndpoints(texts ...string) (all []Endpoint) {
	for _, text := range texts {
		all = append(all, Endpoint{AddrPort: netip.MustParseAddrPort(text), Ready: true, Serving: true})
	}
	return all
}

func flowNode() Node {
	addresses := addrs("192.0.2.10", "2001:db8::10")
	return Node{Name: "node-a", Addresses: addresses, IPs: addresses}
}

// flow returns an answered flow from a client to one address, answered by another.
func flow(p nft.Protocol, to, by string) conntrack.Flow {
	destination, source := netip.MustParseAddrPort(to), netip.MustParseAddrPort(by)
	client := netip.MustParseAddrPort("10.244.9.9:40000")
	if destination.Addr().Is6() {
		client = netip.MustParseAddrPort("[fd00:244:9::9]:40000")
	}
	return conntrack.Flow{Family: Family(destination.Addr()), Protocol: p, Original: conntrack.Tuple{Source: client, Destination: destination},
		Reply: conntrack.Tuple{Source: source, Destination: client}, Status: conntrack.SeenReply}
}

// TestJudge: each case changes a Service and judges a flow that began before.
func TestJudge(t *testing.T) {
	unanswered := func(f conntrack.Flow) conntrack.Flow { f.Status = 0; return f }
	inZone := func(f conntrack.Flow) conntrack.Flow { f.Zone = 7; return f }
	masqueraded := func(f conntrack.Flow) conntrack.Flow {
		f.Reply.Destination = netip.MustParseAddrPort("192.0.2.10:1024")
		return f
	}
	const endpoint, other = "10.244.1.2:5353", "10.244.1.3:5353"
	nothing := func(*Service) {}
	replaced := func(s *Service) { s.Ports[0].Endpoints = flowEndpoints(other, "[fd00:244::3]:5353") }
	empty := func(s *Service) { s.Ports[0].Endpoints, s.Ports[1].Endpoints = nil, nil }
	drained := func(s *Service) { // all endpoints
		for i := range s.Ports {
			for j := range s.Ports[i].Endpoints {
				s.Ports[i].Endpoints[j].Drained = true
			}
		}
	}
	unready := func(s *Service) { // all endpoints
		for i := range s.Ports {
			for j := range s.Ports[i].Endpoints {
				s.Ports[i].Endpoints[j].Ready, s.Ports[i].Endpoints[j].Serving = false, false
			}
		}
	}
	// joined makes all endpoints unready and adds one that is ready.
	joined := func(port int, endpoint string) func(*Service) {
		return func(s *Service) {
			unready(s)
			s.Ports[port].Endpoints = append(s.Ports[port].Endpoints, flowEndpoints(endpoint)...)
		}
	}
	ranges := func(texts ...string) func(*Service) {
		return func(s *Service) { s.SourceRanges = prefixes(texts...) }
	}
	from := func(source string, f conntrack.Flow) conntrack.Flow {
		f.Original.Source = netip.MustParseAddrPort(source)
		return f
	}
	conditions := func(ready, serving, terminating bool) func(*Service) {
		return func(s *Service) {
			e := &s.Ports[0].Endpoints[0]
			e.Ready, e.Serving, e.Terminating = ready, serving, terminating
		}
	}
	for _, c := range []struct {
		name  string
		flow  conntrack.Flow
		then  func(*Service) // nil: the Service is removed
		stale bool
		why   Reason
	}{
		{"served", flow(nft.UDP, "10.96.0.10:53", endpoint), nothing, false, FlowServed},
		{"weight 0", flow(nft.UDP, "10.96.0.10:53", endpoint), drained, false, FlowServed},
		{"untranslated, weight 0", unanswered(flow(nft.UDP, "10.96.0.10:53", "10.96.0.10:53")), drained, false, FlowNoEndpoint},
		{"served, IPv6", flow(nft.UDP, "[fd00:96::10]:53", "[fd00:244::2]:5353"), nothing, false, FlowServed},
		{"served, masqueraded", masqueraded(flow(nft.UDP, "10.96.0.10:53", endpoint)), nothing, false, FlowServed},
		{"served, SCTP", flow(nft.SCTP, "10.96.0.10:9", "10.244.1.2:9999"), nothing, false, FlowServed},
		{"endpoint gone", flow(nft.UDP, "10.96.0.10:53", endpoint), replaced, true, FlowEndpointGone},
		{"endpoint gone, masqueraded", masqueraded(flow(nft.UDP, "10.96.0.10:53", endpoint)), replaced, true, FlowEndpointGone},
		{"endpoint gone, IPv6", flow(nft.UDP, "[fd00:96::10]:53", "[fd00:244::2]:5353"), replaced, true, FlowEndpointGone},
		{"endpoint gone, external IP", flow(nft.UDP, "203.0.113.1:53", endpoint), replaced, true, FlowEndpointGone},
		{"endpoint gone, load balancer", flow(nft.UDP, "203.0.113.2:53", endpoint), replaced, true, FlowEndpointGone},
		{"endpoint gone, load balancer, IPv6", flow(nft.UDP, "[2001:db8:1::2]:53", "[fd00:244::2]:5353"), replaced, true, FlowEndpointGone},
		{"endpoint gone, node port", flow(nft.UDP, "192.0.2.10:30053", endpoint), replaced, true, FlowEndpointGone},
		{"endpoint gone, node port, IPv6", flow(nft.UDP, "[2001:db8::10]:30053", "[fd00:244::2]:5353"), replaced, true, FlowEndpointGone},
		{"endpoint gone, other zone", inZone(flow(nft.UDP, "10.96.0.10:53", endpoint)), replaced, true, FlowEndpointGone},
		{"endpoint of another port", flow(nft.UDP, "10.96.0.10:53", "10.244.1.2:9999"), nothing, true, FlowEndpointGone},
		{"endpoint gone, no other serves", flow(nft.UDP, "10.96.0.10:53", endpoint), func(s *Service) {
			replaced(s)
			unready(s)
		}, true, FlowEndpointGone},
		{"endpoint gone, SCTP", flow(nft.SCTP, "10.96.0.10:9", "10.244.1.2:9999"), func(s *Service) { s.Ports[1].Endpoints = flowEndpoints("10.244.1.3:9999") }, true, FlowEndpointGone},
		{"scaled to zero", flow(nft.UDP, "10.96.0.10:53", endpoint), empty, true, FlowEndpointGone},
		{"scaled to zero, SCTP", flow(nft.SCTP, "10.96.0.10:9", "10.244.1.2:9999"), empty, true, FlowEndpointGone},
		{"deleted", flow(nft.UDP, "10.96.0.10:53", endpoint), nil, true, FlowFrontendGone},
		{"deleted, node port", flow(nft.UDP, "192.0.2.10:30053", endpoint), nil, true, FlowFrontendGone},
		{"deleted, SCTP", flow(nft.SCTP, "10.96.0.10:9", "10.244.1.2:9999"), nil, true, FlowFrontendGone},
		{"deleted, not translated", flow(nft.UDP, "192.0.2.10:30053", "192.0.2.10:30053"), nil, false, FlowPastFrontend},
		{"port changed, old port", flow(nft.UDP, "10.96.0.10:53", endpoint), func(s *Service) { s.Ports[0].Port = 54 }, true, FlowFrontendGone},
		{"port changed, node port", flow(nft.UDP, "192.0.2.10:30053", endpoint), func(s *Service) { s.Ports[0].Port = 54 }, false, FlowServed},
		{"protocol changed", flow(nft.UDP, "10.96.0.10:53", endpoint), func(s *Service) { s.Ports[0].Protocol = nft.SCTP }, true, FlowFrontendGone},
		{"external IP gone", flow(nft.UDP, "203.0.113.1:53", endpoint), func(s *Service) { s.ExternalIPs = nil }, true, FlowFrontendGone},
		{"load balancer gone", flow(nft.UDP, "203.0.113.2:53", endpoint), func(s *Service) { s.LoadBalancerIPs = nil }, true, FlowFrontendGone},
		{"terminates and serves", flow(nft.UDP, "10.96.0.10:53", endpoint), conditions(false, true, true), false, FlowServed},
		{"terminates and does not serve", flow(nft.UDP, "10.96.0.10:53", endpoint), conditions(false, false, true), false, FlowLastEndpoint},
		{"ready and does not serve", flow(nft.UDP, "10.96.0.10:53", endpoint), conditions(true, false, false), false, FlowServed},
		{"not ready, one of the other family is", flow(nft.UDP, "10.96.0.10:53", endpoint), conditions(false, false, false), false, FlowLastEndpoint},
		{"not ready", flow(nft.UDP, "10.96.0.10:53", endpoint), unready, false, FlowLastEndpoint},
		{"not ready, IPv6", flow(nft.UDP, "[fd00:96::10]:53", "[fd00:244::2]:5353"), unready, false, FlowLastEndpoint},
		{"not ready, node port", flow(nft.UDP, "192.0.2.10:30053", endpoint), unready, false, FlowLastEndpoint},
		{"not ready, SCTP", flow(nft.SCTP, "10.96.0.10:9", "10.244.1.2:9999"), unready, false, FlowAssociation},
		{"not ready, another is", flow(nft.UDP, "10.96.0.10:53", endpoint), joined(0, other), true, FlowEndpointUnready},
		{"not ready, another is, masqueraded", masqueraded(flow(nft.UDP, "10.96.0.10:53", endpoint)), joined(0, other), true, FlowEndpointUnready},
		{"not ready, another is, IPv6", flow(nft.UDP, "[fd00:96::10]:53", "[fd00:244::2]:5353"), joined(0, "[fd00:244::3]:5353"), true, FlowEndpointUnready},
		{"not ready, another is, node port", flow(nft.UDP, "192.0.2.10:30053", endpoint), joined(0, other), true, FlowEndpointUnready},
		{"not ready, another is, SCTP", flow(nft.SCTP, "10.96.0.10:9", "10.244.1.2:9999"), joined(1, "10.244.1.3:9999"), false, FlowAssociation},
		{"not ready, another terminates and serves", flow(nft.UDP, "10.96.0.10:53", endpoint), func(s *Service) {
			joined(0, other)(s)
			last := &s.Ports[0].Endpoints[2]
			last.Ready, last.Terminating = false, true
		}, true, FlowEndpointUnready},
		{"policy Local, no local endpoint", flow(nft.UDP, "203.0.113.2:53", endpoint), func(s *Service) { s.ExternalLocal, s.InternalLocal = true, true }, false, FlowServed},
		{"outside the source ranges", flow(nft.UDP, "203.0.113.2:53", endpoint), ranges("192.0.2.0/24"), true, FlowNotAdmitted},
		{"outside the source ranges, one way", unanswered(flow(nft.UDP, "203.0.113.2:53", endpoint)), ranges("192.0.2.0/24"), true, FlowNotAdmitted},
		{"outside the source ranges, IPv6", flow(nft.UDP, "[2001:db8:1::2]:53", "[fd00:244::2]:5353"), ranges("2001:db8::/32"), true, FlowNotAdmitted},
		{"outside the source ranges, masqueraded", masqueraded(flow(nft.UDP, "203.0.113.2:53", endpoint)), ranges("192.0.2.0/24"), true, FlowNotAdmitted},
		{"outside the source ranges, SCTP", flow(nft.SCTP, "203.0.113.2:9", "10.244.1.2:9999"), ranges("192.0.2.0/24"), true, FlowNotAdmitted},
		{"outside the source ranges, no endpoint ready", flow(nft.UDP, "203.0.113.2:53", endpoint), func(s *Service) {
			unready(s)
			ranges("192.0.2.0/24")(s)
		}, true, FlowNotAdmitted},
		{"outside the source ranges, the address is the endpoint", flow(nft.UDP, "203.0.113.2:53", "203.0.113.2:53"), func(s *Service) {
			s.Ports[0].Endpoints = flowEndpoints("203.0.113.2:53")
			ranges("192.0.2.0/24")(s)
		}, true, FlowNotAdmitted},
		{"in the source ranges", flow(nft.UDP, "203.0.113.2:53", endpoint), ranges("192.0.2.0/24", "10.244.9.8/31"), false, FlowServed},
		{"in the source ranges, IPv6", flow(nft.UDP, "[2001:db8:1::2]:53", "[fd00:244::2]:5353"), ranges("fd00:244:9::/64"), false, FlowServed},
		{"in the source ranges, SCTP", flow(nft.SCTP, "203.0.113.2:9", "10.244.1.2:9999"), ranges("10.0.0.0/8"), false, FlowServed},
		{"source ranges with all addresses", flow(nft.UDP, "203.0.113.2:53", endpoint), ranges("192.0.2.0/24", "0.0.0.0/0"), false, FlowServed},
		{"source ranges of the other family", flow(nft.UDP, "[2001:db8:1::2]:53", "[fd00:244::2]:5353"), ranges("192.0.2.0/24"), false, FlowServed},
		{"source ranges, cluster IP", flow(nft.UDP, "10.96.0.10:53", endpoint), ranges("192.0.2.0/24"), false, FlowServed},
		{"source ranges, external IP", flow(nft.UDP, "203.0.113.1:53", endpoint), ranges("192.0.2.0/24"), false, FlowServed},
		{"source ranges, node port", flow(nft.UDP, "192.0.2.10:30053", endpoint), ranges("198.51.100.0/24"), false, FlowServed},
		{"source ranges admit the node, source is the load balancer", from("203.0.113.2:4000", flow(nft.UDP, "203.0.113.2:53", endpoint)), ranges("192.0.2.0/24"), false, FlowServed},
		{"source ranges do not admit the node, source is the load balancer", from("203.0.113.2:4000", flow(nft.UDP, "203.0.113.2:53", endpoint)), ranges("198.51.100.0/24"), true, FlowNotAdmitted},
		{"TCP", flow(nft.TCP, "10.96.0.10:53", endpoint), nil, false, FlowProtocol},
		{"no frontend", flow(nft.UDP, "198.51.100.1:53", endpoint), nil, false, FlowForeign},
		{"no frontend, another port of the address", flow(nft.UDP, "10.96.0.10:54", endpoint), nothing, false, FlowForeign},
		{"no frontend, direct to an endpoint", flow(nft.UDP, endpoint, endpoint), replaced, false, FlowForeign},
		{"no frontend, masqueraded", masqueraded(flow(nft.UDP, "198.51.100.1:53", "198.51.100.1:53")), nil, false, FlowForeign},
		{"not translated", flow(nft.UDP, "10.96.0.10:53", "10.96.0.10:53"), nothing, true, FlowUntranslated},
		{"not translated, masqueraded", masqueraded(flow(nft.UDP, "203.0.113.1:53", "203.0.113.1:53")), nothing, true, FlowUntranslated},
		{"not translated, no endpoint", flow(nft.UDP, "10.96.0.10:53", "10.96.0.10:53"), empty, false, FlowNoEndpoint},
		{"not translated, no endpoint ready", flow(nft.UDP, "10.96.0.10:53", "10.96.0.10:53"), unready, false, FlowNoEndpoint},
		{"not translated, SCTP", flow(nft.SCTP, "10.96.0.10:9", "10.96.0.10:9"), nothing, false, FlowOfAddress},
		{"not translated, SCTP, no answer", unanswered(flow(nft.SCTP, "10.96.0.10:9", "10.96.0.10:9")), nothing, true, FlowUntranslated},
		{"not translated, other zone", inZone(flow(nft.UDP, "10.96.0.10:53", "10.96.0.10:53")), nothing, false, FlowOtherZone},
		{"not translated, node port, a process answers", flow(nft.UDP, "192.0.2.10:30053", "192.0.2.10:30053"), nothing, false, FlowOfNode},
		{"not translated, node port, no answer", unanswered(flow(nft.UDP, "192.0.2.10:30053", "192.0.2.10:30053")), nothing, true, FlowUntranslated},
		{"the node port is the endpoint", unanswered(flow(nft.UDP, "192.0.2.10:30053", "192.0.2.10:30053")), func(s *Service) { s.Ports[0].Endpoints = flowEndpoints("192.0.2.10:30053") }, false, FlowServed},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newOwnedIndex()
			x.Take(Update{Node: flowNode(), Services: []Service{flowService()}})
			if c.then == nil {
				x.Take(Update{Node: flowNode(), Removed: []ServiceName{flowService().ServiceName}})
			} else {
				s := flowService()
				c.then(&s)
				x.Take(Update{Node: flowNode(), Services: []Service{s}})
			}
			if stale, why := x.Judge(c.flow); stale != c.stale || why != c.why {
				t.Errorf("%s: stale %v, %s; want %v, %s", c.flow, stale, why, c.stale, c.why)
			}
		})
	}
}

// ownedIndex is a FlowIndex with the Ruleset that decides which Service owns a frontend.
type ownedIndex struct {
	*FlowIndex
	rules *Ruleset
}

func newOwnedIndex() *ownedIndex { return &ownedIndex{NewFlowIndex(), NewRuleset(flowNode())} }

func (x *ownedIndex) Take(u Update) {
	x.rules.Update(u)
	x.FlowIndex.Take(u, x.rules.Owner)
}

// TestFlowConflict: of two Services that claim a frontend, only the endpoints of its owner may answer.
func TestFlowConflict(t *testing.T) {
	x := newOwnedIndex()
	first, second := flowService(), flowService()
	second.Name, second.Ports[0].Endpoints = "second", flowEndpoints("10.244.1.3:5353")
	x.Take(Update{Node: flowNode(), Services: []Service{second, first}})
	check := func(when, by string, want bool) {
		t.Helper()
		if stale, why := x.Judge(flow(nft.UDP, "10.96.0.10:53", by)); stale != want {
			t.Errorf("%s, answered by %s: stale %v, %s", when, by, stale, why)
		}
	}
	check("both", "10.244.1.2:5353", false)
	check("both", "10.244.1.3:5353", true)
	check("both", "10.244.1.4:5353", true)
	x.Take(Update{Node: flowNode(), Removed: []ServiceName{first.ServiceName}})
	check("only the second", "10.244.1.2:5353", true)
	check("only the second", "10.244.1.3:5353", false)
	x.Take(Update{Node: flowNode(), Services: []Service{first}})
	check("both again", "10.244.1.2:5353", false)
	check("both again", "10.244.1.3:5353", true)
	for _, name := range []ServiceName{first.ServiceName, second.ServiceName} {
		x.Take(Update{Node: flowNode(), Removed: []ServiceName{name}})
	}
	check("neither", "10.244.1.3:5353", true)
	if len(x.frontends) != 0 || len(x.FlowIndex.services) != 0 {
		t.Errorf("state is left over: %v", x.frontends)
	}
}

// TestFlowsOfClaimedFrontend: UDP flows to an external IP are stale once the address becomes the cluster IP of another Service,
// whatever the endpoints of that Service are.
func TestFlowsOfClaimedFrontend(t *testing.T) {
	thief := Service{ServiceName: ServiceName{"test", "thief"}, ClusterIPs: addrs("10.96.0.66"), ExternalIPs: addrs("10.96.0.10"), Ports: []Port{
		{Name: "dns", Protocol: nft.UDP, Port: 53, Endpoints: flowEndpoints("10.244.1.66:5353")}}}
	x, f := newOwnedIndex(), flow(nft.UDP, "10.96.0.10:53", "10.244.1.66:5353")
	x.Take(Update{Node: flowNode(), Services: []Service{thief}})
	if stale, why := x.Judge(f); stale {
		t.Fatal(why)
	}
	for _, endpoints := range [][]Endpoint{nil, flowEndpoints("10.244.1.2:5353")} {
		victim := flowService()
		victim.Ports[0].Endpoints = endpoints
		x.Take(Update{Node: flowNode(), Services: []Service{victim}})
		if stale, why := x.Judge(f); !stale {
			t.Errorf("with the endpoints %v the flow is not stale: %s", endpoints, why)
		}
	}
	x.Take(Update{Node: flowNode(), Removed: []ServiceName{{"test", "dns"}}})
	if stale, why := x.Judge(f); stale {
		t.Error(why)
	}
}

// TestFlowNodeAddress: when the node loses an address, the frontends at it are gone.
func TestFlowNodeAddress(t *testing.T) {
	x := newOwnedIndex()
	x.Take(Update{Node: flowNode(), Services: []Service{flowService()}})
	x.Programmed(nil)
	finish(t, x.FlowIndex)
	moved := flowNode()
	moved.Addresses = addrs("192.0.2.11")
	x.Take(Update{Node: moved, Services: []Service{flowService()}})
	if stale, why := x.Judge(flow(nft.UDP, "192.0.2.10:30053", "10.244.1.2:5353")); !stale || why != FlowFrontendGone {
		t.Errorf("stale %v, %s", stale, why)
	}
	x.Programmed(nil)
	want := []string{"ip udp to 192.0.2.10:30053", "ip udp to 192.0.2.11:30053", "ip6 udp to [2001:db8::10]:30053"}
	if got := finish(t, x.FlowIndex); !slices.Equal(got, want) {
		t.Errorf("examined %q, want %q", got, want)
	}
}

// finish runs a cleanup and returns its filters, sorted.
func finish(t *testing.T, x *FlowIndex) (filters []string) {
	t.Helper()
	cleanup, _ := x.Next()
	for _, f := range cleanup.Filters {
		filters = append(filters, f.String())
	}
	slices.Sort(filters)
	x.CleanedUp(cleanup)
	return filters
}
