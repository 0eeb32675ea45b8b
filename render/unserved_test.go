package render

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"nfproxy/nft"
)

// unservedElements returns the elements of a Service in external-addresses and ping, as "SET ADDRESS", sorted.
func unservedElements(n Node, s Service) []string {
	var all []string
	for _, m := range RulesOf(n, s).members() {
		if sc := SchemaOf(m.Set.Table.Family); m.Set == sc.ExternalAddresses || m.Set == sc.Ping {
			all = append(all, m.Set.Name+" "+m.Key.Addr().String())
		}
	}
	slices.Sort(all)
	return all
}

// TestAddressElements: external-addresses holds the external IPs and load balancer addresses of a Service, ping all its addresses of
// the families in which it has a usable endpoint, each once. Addresses of node ports, the node's primary addresses, and addresses that
// the node does not serve are in neither.
func TestAddressElements(t *testing.T) {
	addrs := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	s := testService("web", 1, "10.96.0.1:80", "10.244.1.2:80")
	s.ClusterIPs = addrs("10.96.0.1", "fd00:96::1")
	s.ExternalIPs = addrs("203.0.113.1", "2001:db8::1", "192.0.2.10", "203.0.113.2")
	s.LoadBalancerIPs = addrs("203.0.113.2", "198.51.100.1")
	s.Ports[0].NodePort = 30080
	s.Ports = append(s.Ports, s.Ports[0])
	s.Ports[1].Name, s.Ports[1].Port, s.Ports[1].NodePort = "second", 81, 30081
	n := Node{Name: "n", Addresses: addrs("192.0.2.10", "192.0.2.11"), IPs: addrs("192.0.2.10")}
	check := func(what string, n Node, s Service, want ...string) {
		t.Helper()
		if got := unservedElements(n, s); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	external := []string{"external-addresses 198.51.100.1", "external-addresses 2001:db8::1", "external-addresses 203.0.113.1", "external-addresses 203.0.113.2"}
	ping4 := []string{"ping 10.96.0.1", "ping 198.51.100.1", "ping 203.0.113.1", "ping 203.0.113.2"}
	check("default", n, s)
	n.UnservedPorts = DropUnserved
	check("drop", n, s, external...)
	n.AnswerPing = true
	check("drop and ping", n, s, slices.Concat(external, ping4)...)
	n.UnservedPorts = PassUnserved
	check("ping", n, s, ping4...)

	six := s
	six.Ports = slices.Clone(s.Ports)
	six.Ports[1].Endpoints = []Endpoint{{AddrPort: netip.MustParseAddrPort("[fd00:244::2]:80"), Serving: true, Terminating: true}}
	check("an endpoint of one port that is terminating and still serves", n, six, "ping 10.96.0.1", "ping 198.51.100.1", "ping 2001:db8::1",
		"ping 203.0.113.1", "ping 203.0.113.2", "ping fd00:96::1")
	n.IPv4Only = true
	check("IPv4 only", n, six, ping4...)
	n.LoadBalancerIPs = Allowlist{Only: true}
	n.UnservedPorts = RefuseUnserved
	check("disallowed addresses", n, s, "external-addresses 203.0.113.1", "external-addresses 203.0.113.2", "ping 10.96.0.1", "ping 203.0.113.1", "ping 203.0.113.2")
	s.Ports[0].Endpoints, s.Ports[1].Endpoints = nil, nil
	check("no endpoint", n, s, "external-addresses 203.0.113.1", "external-addresses 203.0.113.2")
}

// TestSharedAddressElements: an address of two Services stays in the sets until the second of them no longer has it.
func TestSharedAddressElements(t *testing.T) {
	n := Node{Name: "n", UnservedPorts: RefuseUnserved, AnswerPing: true}
	address := netip.MustParseAddr("203.0.113.1")
	a, b := testService("a", 1, "10.96.0.1:80", "10.244.1.2:80"), testService("b", 2, "10.96.0.2:81", "10.244.1.2:80")
	a.LoadBalancerIPs, b.ExternalIPs = []netip.Addr{address}, []netip.Addr{address}
	r := NewRuleset(n)
	r.Update(Update{Node: n, Services: []Service{a, b}})
	reconcile(r, nil)
	// change applies an update and returns the changes of the two sets.
	change := func(u Update) string {
		u.Node = n
		r.Update(u)
		text := ""
		for _, c := range r.Plan() {
			if e, ok := c.Object.(nft.Elements); ok && (e.Set == SchemaOf(nft.IPv4).ExternalAddresses || e.Set == SchemaOf(nft.IPv4).Ping) {
				for _, el := range e.List {
					text += fmt.Sprintf("%d %s %s;", c.Op, e.Set.Name, el.Key.Addr())
				}
			}
		}
		r.Accept()
		return text
	}
	a.Ports[0].Endpoints = nil
	if got, want := change(Update{Services: []Service{a}}), fmt.Sprintf("%d ping 10.96.0.1;", nft.Delete); got != want {
		t.Errorf("one loses its endpoint: %q, want %q", got, want)
	}
	if got := change(Update{Removed: []ServiceName{a.ServiceName}}); got != "" {
		t.Errorf("one is removed: %q", got)
	}
	b.ExternalIPs = nil
	want := fmt.Sprintf("%[1]d external-addresses 203.0.113.1;%[1]d ping 203.0.113.1;", nft.Delete)
	if got := change(Update{Services: []Service{b}}); got != want {
		t.Errorf("the other loses the address: %q, want %q", got, want)
	}
}

// TestUnservedSettingsChange: a Ruleset that finds the tables of other settings has something to change, and one that finds its own has
// nothing. TestUnservedPortsAtRestart applies the changes to a kernel.
func TestUnservedSettingsChange(t *testing.T) {
	s := testService("a", 1, "10.96.0.1:80", "10.244.1.2:80")
	s.LoadBalancerIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	var nodes []Node
	for _, unserved := range []UnservedPorts{PassUnserved, RefuseUnserved, DropUnserved} {
		for _, ping := range []bool{false, true} {
			nodes = append(nodes, Node{Name: "n", UnservedPorts: unserved, AnswerPing: ping})
		}
	}
	for _, from := range nodes {
		for _, to := range nodes {
			adopting := NewRuleset(to)
			adopting.Update(Update{Node: to, Services: []Service{s}})
			adopting.Observe(Tables(Update{Node: from, Services: []Service{s}}))
			if changes := adopting.Plan(); (len(changes) == 0) != from.Equal(to) {
				t.Errorf("from the tables of %+v to %+v: %v", from, to, changes)
			}
		}
	}
}
