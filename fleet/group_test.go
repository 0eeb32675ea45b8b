package fleet

import (
	"fmt"
	"net/netip"
	"testing"

	"nfproxy/render"
	"nfproxy/report"
)

// TestGroupBy: equal answers form groups, the largest first; an empty detail joins the largest group with the same text.
func TestGroupBy(t *testing.T) {
	groups := GroupBy([]Key{{"e", "x", "m1"}, {"d", "x", "m2"}, {"c", "x", "m2"}, {}, {"b", "x", ""}, {"a", "y", ""}, {"f", "x", "m1"}})
	var got []string
	for _, g := range groups {
		got = append(got, fmt.Sprint(g.Nodes, g.Members))
	}
	if want := "[[b e f] [4 0 6] [c d] [2 1] [a] [5]]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// TestExplainedKey: what is specific to a node does not part nodes, and everything else does.
func TestExplainedKey(t *testing.T) {
	base := func(node int) report.Explanation {
		return report.Explanation{
			From:    report.Source{Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(node)}), Origin: report.ThisNode, Why: "the default"},
			Service: &report.ReachedPort{Namespace: "default", Name: "web"}, Outcome: report.Sent,
			Endpoints: []report.Candidate{
				{Address: netip.MustParseAddr("10.0.0.1"), Port: 80, Chance: 0.5, Local: node == 1, Masqueraded: node != 1, MasqueradeWhy: report.SourceIsNode},
				{Address: netip.MustParseAddr("10.0.0.2"), Port: 80, Chance: 0.5, Local: node == 2, Masqueraded: node != 2, MasqueradeWhy: report.SourceIsNode},
			},
			Affinity: &report.Affinity{Seconds: 60, State: "new", Clients: node},
			Rules:    []report.Rule{{Chain: fmt.Sprint(node)}},
		}
	}
	swapped := base(2)
	swapped.Endpoints[0], swapped.Endpoints[1] = swapped.Endpoints[1], swapped.Endpoints[0]
	keys := []Key{ExplainedKey("a", base(1)), ExplainedKey("b", swapped), ExplainedKey("c", base(3))}
	for _, change := range []func(*report.Explanation){
		func(e *report.Explanation) { e.Endpoints[0].Chance = 0.6 },
		func(e *report.Explanation) { e.Endpoints = e.Endpoints[:1] },
		func(e *report.Explanation) { e.Outcome = report.Dropped },
		func(e *report.Explanation) { e.Service.Name = "other" },
		func(e *report.Explanation) { e.Why = []render.Reason{report.InternalNoLocal} },
		func(e *report.Explanation) { e.Problems = []string{"a slot is missing"} },
		func(e *report.Explanation) { e.Affinity.State = "full" },
		func(e *report.Explanation) { e.Endpoints[1].Masqueraded = false },
	} {
		e := base(1)
		change(&e)
		keys = append(keys, ExplainedKey(fmt.Sprint("changed-", len(keys)), e))
	}
	groups := GroupBy(keys)
	if fmt.Sprint(groups[0].Nodes) != "[a b c]" || len(groups) != 9 {
		t.Errorf("%d groups, the largest %v", len(groups), groups[0].Nodes)
	}
}

// TestDumpedKey: node ports are at other addresses on each node, endpoints are local on one, and counters are added up.
func TestDumpedKey(t *testing.T) {
	dump := func(node byte, connections uint64, endpoints ...string) report.Description {
		f := func(addr string, kind render.Kind) report.Frontend {
			c := connections
			f := report.Frontend{Address: netip.MustParseAddr(addr), Port: 80, Kind: kind, Action: "balance", Connections: &c}
			for i, e := range endpoints {
				f.Endpoints = append(f.Endpoints, report.Endpoint{Address: netip.MustParseAddr(e), Port: 80, Local: i == int(node)})
			}
			return f
		}
		return report.Description{Services: []report.ServicePort{{Namespace: "default", Name: "web", Protocol: "TCP",
			Frontends: []report.Frontend{f("10.96.0.1", render.ClusterIP), f(fmt.Sprintf("192.0.2.%d", node), render.NodePort)}}}}
	}
	a, b, c := dump(1, 5, "10.0.0.1", "10.0.0.2"), dump(0, 7, "10.0.0.2", "10.0.0.1"), dump(0, 1, "10.0.0.2")
	if DumpedKey("", a) != DumpedKey("", b) {
		t.Errorf("equal answers differ:\n%v\n%v", DumpedKey("", a), DumpedKey("", b))
	}
	if DumpedKey("", a) == DumpedKey("", c) {
		t.Error("different answers are equal")
	}
	AddCounters(a, b)
	for _, f := range a.Services[0].Frontends {
		if *f.Connections != 12 {
			t.Errorf("%s: %d connections, want 12", f.Address, *f.Connections)
		}
	}
}
