package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
)

// flowTest is a Ruleset with a FlowIndex, as in the agent.
type flowTest struct {
	*Ruleset
	*FlowIndex
}

// newFlowTest returns a flowTest that has reconciled tables, nil for an empty kernel.
func newFlowTest(have []*nft.Table, services ...Service) *flowTest {
	x := &flowTest{NewRuleset(flowNode()), NewFlowIndex()}
	x.take(Update{Services: services})
	x.Programmed(reconcile(x.Ruleset, have))
	return x
}

func (x *flowTest) take(u Update) {
	u.Node = flowNode()
	x.Ruleset.Update(u)
	x.FlowIndex.Take(u, x.Ruleset.Owner)
}

// change applies an update and returns the changes of the tables.
func (x *flowTest) change(u Update) []nft.Change {
	x.take(u)
	changes := converge(x.Ruleset)
	x.Programmed(changes)
	return changes
}

// TestCleanupAtStart: the first cleanup examines all groups that have frontends. The next one examines nothing unless something changes.
func TestCleanupAtStart(t *testing.T) {
	x := newFlowTest(nil, flowService())
	want := []string{"ip sctp", "ip udp", "ip6 sctp", "ip6 udp"}
	if got := finish(t, x.FlowIndex); !slices.Equal(got, want) {
		t.Errorf("examined %q", got)
	}
	if got := finish(t, x.FlowIndex); got != nil {
		t.Errorf("examined %q again", got)
	}
	tcp := flowService()
	tcp.Ports = tcp.Ports[2:]
	if got := finish(t, newFlowTest(nil, tcp).FlowIndex); got != nil {
		t.Errorf("TCP only: examined %q", got)
	}
}

// TestCleanupAfterRestart: after a restart, flows of frontends that no longer exist are stale, and flows of existing frontends are not.
func TestCleanupAfterRestart(t *testing.T) {
	have := newFlowTest(nil, flowService()).Tables()
	served, past := flow(nft.UDP, "10.96.0.10:53", "10.244.1.2:5353"), flow(nft.UDP, "10.96.0.10:54", "10.244.1.2:5353")
	same := newFlowTest(have, flowService())
	if stale, why := same.Judge(served); stale {
		t.Errorf("nothing changed, but the flow is stale: %s", why)
	}
	moved := flowService()
	moved.Ports[0].Port = 54
	other := newFlowTest(have, moved)
	if stale, why := other.Judge(served); !stale || why != FlowFrontendGone {
		t.Errorf("the port has changed: stale %v, %s", stale, why)
	}
	if stale, why := other.Judge(past); stale {
		t.Errorf("a flow to the new port is stale: %s", why)
	}
	have[0].Comment, have[1].Comment = "another schema", "another schema"
	replaced := newFlowTest(have)
	if stale, why := replaced.Judge(served); !stale || why != FlowFrontendGone {
		t.Errorf("the tables were replaced: stale %v, %s", stale, why)
	}
	if got := finish(t, replaced.FlowIndex); len(got) != 4 {
		t.Errorf("examined %q", got)
	}
}

// TestCleanupFilters lists which flows are examined after each change.
func TestCleanupFilters(t *testing.T) {
	few := func(s *Service) { // one frontend per port and family
		s.ExternalIPs, s.LoadBalancerIPs, s.Ports[0].NodePort = nil, nil, 0
	}
	all := func(*Service) {}
	for _, c := range []struct {
		name        string
		first, then func(*Service)
		want        []string
	}{
		{"nothing", all, all, nil},
		{"TCP only", all, func(s *Service) { s.Ports[2].Endpoints = flowEndpoints("10.244.1.3:5353") }, nil},
		{"an endpoint of UDP", few, func(s *Service) { s.Ports[0].Endpoints[0].AddrPort = netip.MustParseAddrPort("10.244.1.3:5353") },
			[]string{"ip udp to 10.96.0.10:53"}},
		{"an endpoint of UDP, IPv6", few, func(s *Service) { s.Ports[0].Endpoints[1].AddrPort = netip.MustParseAddrPort("[fd00:244::3]:5353") },
			[]string{"ip6 udp to [fd00:96::10]:53"}},
		{"an endpoint of SCTP", few, func(s *Service) { s.Ports[1].Endpoints = flowEndpoints("10.244.1.3:9999") },
			[]string{"ip sctp to 10.96.0.10:9"}},
		{"the port", few, func(s *Service) { s.Ports[0].Port = 54 },
			[]string{"ip udp to 10.96.0.10:53", "ip udp to 10.96.0.10:54", "ip6 udp to [fd00:96::10]:53", "ip6 udp to [fd00:96::10]:54"}},
		{"an endpoint of many frontends", all, func(s *Service) { s.Ports[0].Endpoints[0].AddrPort = netip.MustParseAddrPort("10.244.1.3:5353") },
			[]string{"ip udp"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := flowService()
			c.first(&s)
			x := newFlowTest(nil, s)
			finish(t, x.FlowIndex)
			s = flowService()
			c.first(&s)
			c.then(&s)
			x.change(Update{Services: []Service{s}})
			if got := finish(t, x.FlowIndex); !slices.Equal(got, c.want) {
				t.Errorf("examined %q, want %q", got, c.want)
			}
		})
	}
}

// TestCleanupWithoutRuleChange: the removal of a terminating endpoint changes no rule, but its flows are examined.
func TestCleanupWithoutRuleChange(t *testing.T) {
	s := flowService()
	s.Ports = s.Ports[1:2]
	s.Ports[0].Endpoints = flowEndpoints("10.244.1.2:9999", "10.244.1.3:9999")
	s.Ports[0].Endpoints[1].Ready, s.Ports[0].Endpoints[1].Terminating = false, true
	x := newFlowTest(nil, s)
	finish(t, x.FlowIndex)
	s.Ports[0].Endpoints = s.Ports[0].Endpoints[:1]
	if changes := x.change(Update{Services: []Service{s}}); len(changes) != 0 {
		t.Fatalf("the rules changed: %v", changes)
	}
	if got := finish(t, x.FlowIndex); !slices.Equal(got, []string{"ip sctp"}) {
		t.Errorf("examined %q", got)
	}
}

// TestCleanupAfterTransitions: every change that can make flows stale has them examined, even if no rule changes. Other changes
// of endpoints and source ranges do not.
func TestCleanupAfterTransitions(t *testing.T) {
	first, second := flowEndpoints("10.244.1.2:5353")[0], flowEndpoints("10.244.1.3:5353")[0]
	unready := func(e Endpoint) Endpoint { e.Ready, e.Serving = false, false; return e }
	terminating := func(e Endpoint) Endpoint { e.Ready, e.Terminating = false, true; return e }
	endpoints := func(list ...Endpoint) func(*Service) {
		return func(s *Service) { s.Ports[0].Endpoints = list }
	}
	ranges := func(texts ...string) func(*Service) {
		return func(s *Service) { s.SourceRanges = prefixes(texts...) }
	}
	for _, c := range []struct {
		name        string
		first, then func(*Service)
		examined    bool
	}{
		{"an unready endpoint leaves", endpoints(first, unready(second)), endpoints(first), true},
		{"the last, unready endpoint leaves", endpoints(unready(first)), endpoints(), true},
		{"an endpoint becomes unready", endpoints(first, second), endpoints(first, unready(second)), true},
		{"a terminating endpoint no longer serves", endpoints(first, terminating(second)), endpoints(first, unready(terminating(second))), true},
		{"the first endpoint becomes ready", endpoints(unready(first), unready(second)), endpoints(first, unready(second)), true},
		{"the first endpoint appears", endpoints(unready(first)), endpoints(unready(first), second), true},
		{"another endpoint becomes ready", endpoints(first, unready(second)), endpoints(first, second), false},
		{"an unready endpoint appears", endpoints(first), endpoints(first, unready(second)), false},
		{"a ready endpoint appears", endpoints(first), endpoints(first, second), false},
		{"an endpoint begins to terminate", endpoints(first, second), endpoints(first, terminating(second)), false},
		{"source ranges appear", ranges(), ranges("192.0.2.0/24"), true},
		{"a source range disappears", ranges("192.0.2.0/24", "10.0.0.0/8"), ranges("192.0.2.0/24"), true},
		{"a source range becomes smaller", ranges("192.0.2.0/24"), ranges("192.0.2.0/25"), true},
		{"a source range appears", ranges("192.0.2.0/24"), ranges("192.0.2.0/24", "10.0.0.0/8"), false},
		{"a source range becomes larger", ranges("192.0.2.0/25"), ranges("192.0.2.0/24"), false},
		{"the source ranges disappear", ranges("192.0.2.0/24"), ranges(), false},
		{"source ranges of all addresses", ranges("192.0.2.0/24"), ranges("192.0.2.0/24", "0.0.0.0/0"), false},
		{"source ranges of the other family", ranges("192.0.2.0/24"), ranges("192.0.2.0/24", "2001:db8::/32"), false},
		{"the order of source ranges", ranges("192.0.2.0/24", "10.0.0.0/8"), ranges("10.0.0.0/8", "192.0.2.0/24"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newOwnedIndex()
			examined := func(edit func(*Service)) []string {
				s := flowService()
				s.Ports = s.Ports[:1]
				s.ExternalIPs, s.LoadBalancerIPs, s.Ports[0].NodePort = nil, addrs("203.0.113.2"), 0
				edit(&s)
				x.Take(Update{Node: flowNode(), Services: []Service{s}})
				x.Programmed(nil) // without the changes of the rules, which select flows too
				return finish(t, x.FlowIndex)
			}
			examined(c.first)
			var want []string
			if c.examined {
				want = []string{"ip udp to 203.0.113.2:53"}
			}
			if c.examined && !strings.Contains(c.name, "range") { // ranges apply to load balancer addresses alone
				want = []string{"ip udp to 10.96.0.10:53", "ip udp to 203.0.113.2:53"}
			}
			if got := examined(c.then); !slices.Equal(got, want) {
				t.Errorf("examined %q, want %q", got, want)
			}
		})
	}
}

// TestCleanupForgetsGoneFrontends: a frontend that is gone is forgotten when a cleanup that began afterwards is complete.
func TestCleanupForgetsGoneFrontends(t *testing.T) {
	gone := flow(nft.UDP, "10.96.0.10:53", "10.244.1.2:5353")
	known := func(x *flowTest) bool { stale, _ := x.Judge(gone); return stale }
	x := newFlowTest(nil, flowService())
	during, _ := x.Next()
	x.change(Update{Removed: []ServiceName{flowService().ServiceName}})
	x.CleanedUp(during)
	if !known(x) {
		t.Error("forgotten after a cleanup that began before")
	}
	failed, _ := x.Next()
	x.Failed(failed)
	if !known(x) {
		t.Error("forgotten after a failed cleanup")
	}
	if got := finish(t, x.FlowIndex); len(got) == 0 {
		t.Error("not examined again")
	}
	if known(x) {
		t.Error("still known after a cleanup")
	}
	if len(x.gone) != 0 || x.sizes[flowGroup{nft.IPv4, nft.UDP}] != 0 {
		t.Errorf("state is left over: %v, %v", x.gone, x.sizes)
	}
}

// TestCleanupOfManyFrontends: the flows of many frontends are listed with one filter.
func TestCleanupOfManyFrontends(t *testing.T) {
	x := newFlowTest(nil)
	finish(t, x.FlowIndex)
	var services []Service
	for i := range maxListedFrontends + 1 {
		s := flowService()
		s.Name, s.Ports = fmt.Sprint(i), s.Ports[:1]
		s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})}, nil, nil
		s.Ports[0].NodePort = 0
		services = append(services, s)
	}
	x.change(Update{Services: services[:maxListedFrontends]})
	if got := finish(t, x.FlowIndex); len(got) != maxListedFrontends {
		t.Errorf("examined %q", got)
	}
	var names []ServiceName
	for _, s := range services[:maxListedFrontends] {
		names = append(names, s.ServiceName)
	}
	x.change(Update{Removed: names, Services: services[maxListedFrontends:]})
	if got := finish(t, x.FlowIndex); !slices.Equal(got, []string{"ip udp"}) {
		t.Errorf("examined %q", got)
	}
}
