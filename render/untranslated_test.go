package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// TestUntranslatedFlows: which flows are untranslated flows to a frontend.
func TestUntranslatedFlows(t *testing.T) {
	node := Node{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80")
	s.Ports[0].NodePort = 30080
	six := testService("six", 1, "[fd00:10:96::1]:80", "[fd00::1]:80")
	r := NewRuleset(node)
	r.Update(Update{Node: node, Services: []Service{s, six}})
	untranslated, ok := r.UntranslatedFlows(reconcile(r, nil))
	if !ok {
		t.Fatal("there are no flows after a first load")
	}
	for _, c := range []struct {
		name string
		to   string
		edit func(*conntrack.Flow)
		want bool
	}{
		{"to a frontend, not translated", "10.96.0.1:80", func(*conntrack.Flow) {}, true},
		{"IPv6", "[fd00:10:96::1]:80", func(*conntrack.Flow) {}, true},
		{"translated", "10.96.0.1:80", func(f *conntrack.Flow) { f.Reply.Source = netip.MustParseAddrPort("10.0.0.1:80") }, false},
		{"answered", "10.96.0.1:80", func(f *conntrack.Flow) { f.Status = conntrack.SeenReply }, false},
		{"UDP", "10.96.0.1:80", func(f *conntrack.Flow) { f.Protocol = nft.UDP }, false},
		{"in another zone", "10.96.0.1:80", func(f *conntrack.Flow) { f.Zone = 1 }, false},
		{"to no frontend", "10.96.0.1:81", func(*conntrack.Flow) {}, false},
		{"to a node port", "192.0.2.1:30080", func(*conntrack.Flow) {}, false},
	} {
		to := netip.MustParseAddrPort(c.to)
		f := conntrack.Flow{Family: Family(to.Addr()), Protocol: nft.TCP, Original: conntrack.Tuple{Destination: to}, Reply: conntrack.Tuple{Source: to}}
		c.edit(&f)
		if got := untranslated.Has(f); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

// TestUntranslatedScope: after a repair only the flows are listed that may have begun without the rules that it restored, and none if
// the repair restored nothing that translates TCP connections. A few frontends are listed one by one.
func TestUntranslatedScope(t *testing.T) {
	node := Node{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	var services []Service
	for _, at := range []string{"10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80", "[fd00:10:96::1]:80"} {
		endpoint := "10.0.0.1:80"
		if at[0] == '[' {
			endpoint = "[fd00::1]:80"
		}
		s := testService("s"+at, 1, at, endpoint)
		s.Ports[0].NodePort = 30000 + uint16(len(services))
		services = append(services, s)
	}
	services[0].ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")} // has an element in connections
	dns := testService("dns", 1, "10.96.0.9:53", "10.0.0.9:53")
	dns.Ports[0].Protocol = nft.UDP
	services = append(services, dns)

	element := func(at string) nft.Value { return Frontend{netip.MustParseAddrPort(at), nft.TCP}.Key() }
	without := func(s *nft.Set, keys ...nft.Value) {
		s.Elements = slices.DeleteFunc(slices.Clone(s.Elements), func(e nft.Element) bool {
			return slices.ContainsFunc(keys, func(k nft.Value) bool { return strings.HasPrefix(string(e.Key), string(k)) })
		})
	}
	noRules := func(table *nft.Table, chain string) {
		for i, c := range table.Chains {
			if c.Name == chain {
				other := *c
				other.Rules = nil
				table.Chains[i] = &other
			}
		}
	}
	for _, c := range []struct {
		name    string
		disturb func(four, six *nft.Table)
		want    []string // filters
	}{
		{"nothing", func(_, _ *nft.Table) {}, nil},
		{"a table", func(four, _ *nft.Table) { four.Sets, four.Chains = nil, nil }, []string{"ip tcp"}},
		{"one frontend", func(four, _ *nft.Table) { without(four.Set("services"), element("10.96.0.1:80")) }, []string{"ip tcp to 10.96.0.1:80"}},
		{"frontends of both families", func(four, six *nft.Table) {
			without(four.Set("services"), element("10.96.0.1:80"), element("10.96.0.2:80"))
			without(six.Set("services"), element("[fd00:10:96::1]:80"))
		}, []string{"ip tcp to 10.96.0.1:80", "ip tcp to 10.96.0.2:80", "ip6 tcp to [fd00:10:96::1]:80"}},
		{"three frontends", func(four, _ *nft.Table) {
			without(four.Set("services"), element("10.96.0.1:80"), element("10.96.0.2:80"), element("10.96.0.3:80"))
		}, []string{"ip tcp"}},
		{"an endpoint", func(four, _ *nft.Table) { without(four.Set("endpoints"), element("10.96.0.2:80")) }, []string{"ip tcp to 10.96.0.2:80"}},
		{"a node port", func(four, _ *nft.Table) { without(four.Set("services"), element("192.0.2.1:30000")) }, nil},
		{"a frontend of UDP", func(four, _ *nft.Table) {
			without(four.Set("services"), Frontend{netip.MustParseAddrPort("10.96.0.9:53"), nft.UDP}.Key())
		}, nil},
		{"another element", func(four, _ *nft.Table) {
			four.Set("services").Elements = append(slices.Clone(four.Set("services").Elements),
				nft.Element{Key: element("10.96.7.7:80"), Data: nft.GotoChain(RefuseChain).Value()})
		}, nil},
		{"a set that only masquerading needs", func(four, _ *nft.Table) { four.Set("connections").Elements = nil }, nil},
		{"the rules of masquerading", func(four, _ *nft.Table) { noRules(four, ConnectionsChain); noRules(four, "postrouting") }, nil},
		{"the rules of dispatching", func(_, six *nft.Table) { noRules(six, DispatchChain) }, []string{"ip6 tcp"}},
		{"the rules of a hook", func(four, _ *nft.Table) { noRules(four, "output") }, []string{"ip tcp"}},
		{"the rules that balance", func(four, _ *nft.Table) { noRules(four, "lb-2") }, []string{"ip tcp"}},
	} {
		r := NewRuleset(node)
		r.Update(Update{Node: node, Services: services})
		reconcile(r, nil)
		tables := Tables(Update{Node: node, Services: services})
		c.disturb(tables[0], tables[1])
		r.Forget()
		flows, ok := r.UntranslatedFlows(reconcile(r, tables))
		var got []string
		for _, f := range flows.Filters() {
			got = append(got, f.String())
		}
		if !slices.Equal(got, c.want) || ok != (len(c.want) > 0) {
			t.Errorf("%s: lists %q, %t, want %q", c.name, got, ok, c.want)
		}
	}
}

// TestUntranslatedFlowsAnd: flows that are not deleted yet are listed together with those of the next repair, and their number stays
// bounded.
func TestUntranslatedFlowsAnd(t *testing.T) {
	node := Node{Name: "n"}
	r := NewRuleset(node)
	var all UntranslatedFlows
	for i := range 100 {
		s := testService("s", 1, fmt.Sprintf("10.96.0.%d:80", i), "10.0.0.1:80")
		r.Update(Update{Node: node, Services: []Service{s}})
		one, ok := r.UntranslatedFlows([]nft.Change{{Op: nft.Add, Object: nft.Elements{Set: SchemaOf(nft.IPv4).Services,
			List: []nft.Element{{Key: Frontend{netip.MustParseAddrPort(fmt.Sprintf("10.96.0.%d:80", i)), nft.TCP}.Key()}}}}})
		if !ok {
			t.Fatal("there are no flows")
		}
		all = one.And(all)
		if want := min(i+1, 2); i < 2 && len(all.Filters()) != want || i >= 2 && fmt.Sprint(all.Filters()) != "[ip tcp]" || len(all.frontends) != 1 {
			t.Errorf("after %d: %d frontends, lists %s", i, len(all.frontends), all.Filters())
		}
	}
}
