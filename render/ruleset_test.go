package render

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
)

func testService(name string, created int64, frontend string, endpoints ...string) Service {
	at := netip.MustParseAddrPort(frontend)
	p := Port{Name: "p", Protocol: nft.TCP, Port: at.Port()}
	for _, e := range endpoints {
		p.Endpoints = append(p.Endpoints, Endpoint{AddrPort: netip.MustParseAddrPort(e), Ready: true, Node: "n"})
	}
	return Service{ServiceName: ServiceName{"ns", name}, Created: time.Unix(created, 0), ClusterIPs: []netip.Addr{at.Addr()}, Ports: []Port{p}}
}

// converge plans and accepts, and returns the changes.
func converge(r *Ruleset) []nft.Change {
	changes := r.Plan()
	r.Accept()
	return changes
}

// reconcile does the same after tables were read.
func reconcile(r *Ruleset, have []*nft.Table) []nft.Change {
	r.Observe(have)
	return converge(r)
}

// TestConflicts: the older Service has the frontend, whatever the order they come in, and the next inherits it.
func TestConflicts(t *testing.T) {
	const frontend = "10.96.0.1:80"
	old := testService("old", 1, frontend, "10.0.0.1:1")
	middle := testService("middle", 2, frontend, "10.0.0.2:1")
	young := testService("a-young", 3, frontend, "10.0.0.3:1")
	owner := func(r *Ruleset) string {
		tables := r.Tables()
		var owners []string
		for _, e := range tables[0].Set("services").Elements {
			owners = append(owners, e.Comment)
		}
		endpoints := tables[0].Set("endpoints").Elements
		if len(owners) != len(endpoints) {
			t.Fatalf("frontends of %v have the endpoints %v", owners, endpoints)
		}
		return strings.Join(owners, " ")
	}
	for _, order := range [][]Service{{old, middle, young}, {young, middle, old}, {middle, old, young}} {
		r := NewRuleset(Node{Name: "n"})
		reconcile(r, nil)
		conflicts := 0
		for _, s := range order {
			conflicts += len(r.Update(Update{Node: r.node, Services: []Service{s}}))
		}
		if conflicts != 2 {
			t.Errorf("%d conflicts reported", conflicts)
		}
		for _, step := range []struct {
			removed string
			want    string
		}{{"", "ns/old:p"}, {"middle", "ns/old:p"}, {"old", "ns/a-young:p"}, {"a-young", ""}} {
			r.Update(Update{Node: r.node, Removed: []ServiceName{{"ns", step.removed}}})
			converge(r)
			if got := owner(r); got != step.want {
				t.Errorf("without %q the owner is %q, not %q", step.removed, got, step.want)
			}
		}
		if len(r.claims.owners)+len(r.claims.rivals)+len(r.services)+len(r.applied.shared) > 0 {
			t.Errorf("left behind: %v %v %v %v", r.claims.owners, r.claims.rivals, r.services, r.applied.shared)
		}
	}
}

// TestConflictAcrossRecreation: a Service deleted and made again is young, and gives way.
func TestConflictAcrossRecreation(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	r.Update(Update{Services: []Service{testService("a", 1, "10.96.0.1:80"), testService("b", 2, "10.96.0.1:80")}})
	conflicts := r.Update(Update{Services: []Service{testService("a", 3, "10.96.0.1:80")}})
	if len(conflicts) != 1 || conflicts[0].Winner.Name != "b" || conflicts[0].Loser.Name != "a" {
		t.Errorf("%v", conflicts)
	}
	converge(r)
	if got := r.Tables()[0].Set("services").Elements[0].Comment; got != "ns/b:p" {
		t.Errorf("the owner is %s", got)
	}
}

// TestSlots: an endpoint keeps its slot; holes are filled from the tail, then by newcomers.
func TestSlots(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	for _, step := range []struct{ endpoints, want string }{
		{"a b c d", "a b c d"},
		{"a b c d e", "a b c d e"},
		{"b c d e", "e b c d"},     // a's slot to the last
		{"b c d e f", "e b c d f"}, // at the end
		{"a b c d f", "a b c d f"}, // replaced in place
		{"a", "a"},
		{"0 a b", "a 0 b"},
		{"x y z", "x y z"},
		{"", ""},
		{"b a", "a b"},
	} {
		s := testService("s", 1, "10.96.0.1:80")
		for name := range strings.FieldsSeq(step.endpoints) {
			e := Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, name[0]}), 1), Ready: true}
			s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, e)
		}
		r.Update(Update{Services: []Service{s}})
		converge(r)
		var got []string
		for _, e := range r.Tables()[0].Set("endpoints").Elements {
			got = append(got, string(rune(e.Data[3])))
		}
		if strings.Join(got, " ") != step.want {
			t.Errorf("%q takes the slots %q, not %q", step.endpoints, got, step.want)
		}
	}
}

// TestNodeChange: what a node's facts change is sent, and nothing else.
func TestNodeChange(t *testing.T) {
	p := netip.MustParsePrefix
	r := NewRuleset(Node{Name: "n", ServiceCIDRs: []netip.Prefix{p("10.96.0.0/16")}})
	s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:1")
	r.Update(Update{Node: r.node, Services: []Service{s}})
	reconcile(r, nil)
	r.Update(Update{Services: []Service{s}, Node: Node{Name: "n", ServiceCIDRs: []netip.Prefix{p("10.96.0.0/16"), p("10.97.0.0/16")},
		ClusterCIDRs: []netip.Prefix{p("10.0.0.0/8")}}})
	var got []string
	for _, c := range converge(r) {
		got = append(got, c.String())
	}
	want := []string{
		"flush chain ip nfproxy masquerade-cluster",
		"add rule ip nfproxy masquerade-cluster ip saddr . ip daddr @hairpin masquerade fully-random\n" +
			"add rule ip nfproxy masquerade-cluster ip saddr != @local-sources masquerade fully-random",
		"add element ip nfproxy local-sources { 10.0.0.0/8 }",
		"add element ip nfproxy service-cidrs { 10.97.0.0/16 }",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// BenchmarkMemory tells how many bytes a Service with three endpoints costs, held as a Ruleset holds it.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				r := NewRuleset(Node{Name: "n"})
				for i := range n {
					a := func(base byte) netip.AddrPort {
						return netip.AddrPortFrom(netip.AddrFrom4([4]byte{base, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
					}
					s := testService(fmt.Sprintf("service-%d", i), 1, a(10).String(), a(20).String(), a(21).String(), a(22).String())
					r.Update(Update{Node: r.node, Services: []Service{s}})
				}
				reconcile(r, nil)
				b.ReportMetric(float64(heap()-before)/float64(n), "bytes/Service")
				runtime.KeepAlive(r)
			}
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestPlanIsRepeatable: a plan that is not accepted has no effect. The next one is the same, or includes what was updated
// meanwhile.
func TestPlanIsRepeatable(t *testing.T) {
	sticky := testService("sticky", 1, "10.96.0.3:80", "10.0.0.1:80", "10.0.0.2:80")
	sticky.Affinity = time.Hour
	r := NewRuleset(Node{Name: "n"})
	if r.Update(Update{Node: r.node, Services: []Service{sticky}}); len(r.Plan()) > 0 || r.Known() {
		t.Error("there is a plan although the state of the kernel is unknown")
	}
	r.Observe(nil)
	first := changesText(r.Plan())
	if again := changesText(r.Plan()); first == "" || again != first {
		t.Errorf("the first plan is\n%s\nand again\n%s", first, again)
	}
	r.Accept()
	if got := r.Plan(); len(got) > 0 || !r.Known() {
		t.Errorf("after Accept there is left\n%s", changesText(got))
	}

	web := testService("web", 1, "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
	r.Update(Update{Node: r.node, Services: []Service{web}, Removed: []ServiceName{sticky.ServiceName}})
	want := changesText(r.Plan())
	for range 2 {
		if got := changesText(r.Plan()); got != want {
			t.Errorf("the plan was\n%s\nand is\n%s", want, got)
		}
	}
	before := r.Tables()[0].String()
	other := testService("other", 1, "10.96.0.2:80", "10.0.0.1:80")
	r.Update(Update{Node: r.node, Services: []Service{other}})
	got := changesText(r.Plan())
	if !strings.Contains(got, "ns/other:p") || !strings.Contains(got, "ns/web:p") || r.Tables()[0].String() != before {
		t.Errorf("with another Service the plan is\n%s", got)
	}
	r.Accept()
	if rest := nft.Diff(r.Tables(), Tables(Update{Node: r.node, Services: []Service{web, other}})); len(rest) > 2 { // the chain of two endpoints
		t.Errorf("what was accepted differs from the desired tables by\n%s", changesText(rest))
	}
	r.Update(Update{Node: r.node, Removed: []ServiceName{web.ServiceName}})
	if r.Forget(); len(r.Plan()) > 0 {
		t.Error("there is a plan although the state of the kernel was forgotten")
	}
}
