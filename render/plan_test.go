package render

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
)

// changesText returns the text of changes, one per line.
func changesText(changes []nft.Change) string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "\n")
}

// TestPlanIsRepeatable: a plan that is not accepted has no effect. The next plan is the same, or includes later updates too.
func TestPlanIsRepeatable(t *testing.T) {
	sticky := testService("sticky", 1, "10.96.0.3:80", "10.0.0.1:80", "10.0.0.2:80")
	sticky.Affinity = time.Hour
	r := NewRuleset(Node{Name: "n"})
	if r.Update(Update{Node: r.node, Services: []Service{sticky}}); len(r.Plan()) > 0 || r.Known() {
		t.Error("Plan returns changes although the state of the kernel is unknown")
	}
	r.Observe(nil)
	first := changesText(r.Plan())
	if again := changesText(r.Plan()); first == "" || again != first {
		t.Errorf("the first plan is\n%s\nthe second\n%s", first, again)
	}
	r.Accept()
	if got := r.Plan(); len(got) > 0 || !r.Known() {
		t.Errorf("after Accept the plan is\n%s", changesText(got))
	}

	web := testService("web", 1, "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
	r.Update(Update{Node: r.node, Services: []Service{web}, Removed: []ServiceName{sticky.ServiceName}})
	want := changesText(r.Plan())
	for range 2 {
		if got := changesText(r.Plan()); got != want {
			t.Errorf("the plan was\n%s\nand is now\n%s", want, got)
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
		t.Errorf("the accepted tables differ from the desired ones by\n%s", changesText(rest))
	}
	r.Update(Update{Node: r.node, Removed: []ServiceName{web.ServiceName}})
	if r.Forget(); len(r.Plan()) > 0 {
		t.Error("Plan returns changes although the state of the kernel was forgotten")
	}
}

// TestNodeChange: a change of the Node changes the rules and elements that depend on it, and nothing else.
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

// TestChangesOfManyUpdates: a plan is the difference between the applied and the desired stage, whatever was desired in between.
func TestChangesOfManyUpdates(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	sticky := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80")
	sticky.Affinity = time.Hour
	other := testService("s", 1, "10.96.0.2:80", "10.0.0.1:80")
	update := func(s Service) { r.Update(Update{Services: []Service{s}}) }
	remove := func() { r.Update(Update{Removed: []ServiceName{sticky.ServiceName}}) }

	update(sticky)
	remove()
	if got := converge(r); len(got) > 0 {
		t.Errorf("a Service was added and removed, and the changes are\n%s", changesText(got))
	}
	update(sticky)
	converge(r)
	remove()
	update(other)
	update(sticky)
	if got := converge(r); len(got) > 0 {
		t.Errorf("a Service was removed and added again, and the changes are\n%s", changesText(got))
	}
}
