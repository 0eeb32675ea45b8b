package render

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// blue returns the instance with the name blue.
func blue(t *testing.T) Instance {
	t.Helper()
	i, err := NewInstance("blue")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestNewInstance: a name is the value of a label. No tables of an instance have the name of other tables of nfproxy.
func TestNewInstance(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, name := range []string{"blue", "B.l_u-e", "1", "10.2", "guard", "guard-1", "trace-7", long} {
		i, err := NewInstance(name)
		if err != nil || i.Name() != name {
			t.Errorf("%q: name %q, %v", name, i.Name(), err)
		}
		want := []nft.TableID{{Family: nft.IPv4, Name: "nfproxy/" + name}, {Family: nft.IPv6, Name: "nfproxy/" + name}}
		if got := i.TableIDs(); !slices.Equal(got, want) {
			t.Errorf("%q: tables %v", name, got)
		}
		if back, err := InstanceOf("nfproxy/" + name); err != nil || !back.Equal(i) || back.Equal(Instance{}) {
			t.Errorf("the instance of tables nfproxy/%s is %q, %v", name, back.Name(), err)
		}
	}
	for name, want := range map[string]string{
		long + "a": "is longer than the value of a label, 63 characters",
		"a/b":      "is not the value of a label", "a b": "is not the value of a label", "-a": "is not the value of a label",
		"a-": "is not the value of a label", ".": "is not the value of a label", "ä": "is not the value of a label", "a\n": "is not the value of a label",
	} {
		if _, err := NewInstance(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", name, err, want)
		}
	}
	zero, err := NewInstance("")
	if err != nil || zero != (Instance{}) || zero.Suffix() != "" || zero.TableIDs()[0].Name != "nfproxy" {
		t.Errorf("the instance without a name: %v, %v", zero.TableIDs(), err)
	}
	for _, table := range []string{"nfproxy/", "nfproxy-guard", "nfproxy-guard/blue", "nfproxy-trace-1", "kube-proxy", "nfproxy/a/b", ""} {
		if i, err := InstanceOf(table); err == nil {
			t.Errorf("table %q has the instance %q", table, i.Name())
		}
	}
}

// TestInstanceTables: the tables of an instance are those of the zero Instance but for their names, those that a change plans included,
// and an instance finds nothing to do in its own tables.
func TestInstanceTables(t *testing.T) {
	services := servicesOfAllKinds(t)
	texts := make(map[string]string)
	for _, i := range []Instance{{}, blue(t)} {
		n := Node{Instance: i, Name: "n", UnservedPorts: RefuseUnserved, AnswerPing: true}
		r := NewRuleset(n)
		r.Update(Update{Node: n, Services: services[:1]})
		r.Observe(nil)
		r.Plan()
		r.Accept()
		r.Update(Update{Node: n, Services: services})
		for _, c := range r.Plan() {
			texts[i.Name()] += c.String() + "\n"
		}
		r.Accept()
		tables := r.Tables()
		for _, table := range tables {
			texts[i.Name()] += table.String()
		}
		r.Observe(tables)
		if changes := r.Plan(); len(changes) > 0 {
			t.Errorf("instance %q finds changes in its own tables: %v", i.Name(), changes)
		}
	}
	if got := strings.ReplaceAll(texts["blue"], "nfproxy/blue", "nfproxy"); got != texts[""] || !strings.Contains(texts["blue"], "nfproxy/blue") {
		t.Errorf("the tables of instance blue\n%s\nand of the zero instance\n%s", got, texts[""])
	}
}

// servicesOfAllKinds returns Services of all kinds: with session affinity, source ranges, node ports and policy Local.
func servicesOfAllKinds(t *testing.T) []Service {
	t.Helper()
	port := func(n uint16, p nft.Protocol) Port {
		var endpoints []Endpoint
		for _, at := range []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "[fd00::1]:80"} {
			endpoints = append(endpoints, Endpoint{AddrPort: netip.MustParseAddrPort(at), Node: "n", Ready: true, Serving: true})
		}
		return Port{Port: n, Protocol: p, NodePort: 30000 + n, Endpoints: endpoints}
	}
	cluster := func(last string) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("10.96.0." + last), netip.MustParseAddr("fd00:96::" + last)}
	}
	return []Service{
		{ServiceName: ServiceName{"default", "a"}, ClusterIPs: cluster("1"), Ports: []Port{port(80, nft.TCP), port(53, nft.UDP)}},
		{ServiceName: ServiceName{"default", "b"}, ClusterIPs: cluster("2"), Ports: []Port{port(81, nft.TCP)}, Affinity: time.Minute},
		{ServiceName: ServiceName{"default", "c"}, ClusterIPs: cluster("3"), Ports: []Port{port(82, nft.TCP)}, ExternalLocal: true,
			LoadBalancerIPs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}, SourceRanges: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		{ServiceName: ServiceName{"default", "d"}, ClusterIPs: cluster("4"), Ports: []Port{{Port: 83, Protocol: nft.TCP}}},
	}
}

// TestFlowsOfMovedService: the flows of a Service that disappears are stale, unless the instance runs beside another proxy, to which
// the Service may have moved.
func TestFlowsOfMovedService(t *testing.T) {
	service := servicesOfAllKinds(t)[0]
	flow := conntrack.Flow{Protocol: nft.UDP,
		Original: conntrack.Tuple{Source: netip.MustParseAddrPort("192.0.2.1:1000"), Destination: netip.MustParseAddrPort("10.96.0.1:53")},
		Reply:    conntrack.Tuple{Source: netip.MustParseAddrPort("10.0.0.1:80"), Destination: netip.MustParseAddrPort("192.0.2.1:1000")}}
	for _, c := range []struct {
		instance Instance
		stale    bool
	}{{Instance{}, true}, {blue(t), false}} {
		node := Node{Instance: c.instance, Name: "n"}
		r := NewRuleset(node)
		x := NewFlowIndex()
		for _, u := range []Update{{Node: node, Services: []Service{service}}, {Node: node, Removed: []ServiceName{service.ServiceName}}} {
			r.Update(u)
			x.Take(u, r.Owner)
			x.Programmed(nil)
		}
		if stale, why := x.Judge(flow); stale != c.stale {
			t.Errorf("instance %q: stale %v: %s", c.instance.Name(), stale, why)
		}
	}
}
