package report_test

import (
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// look is one comparison of TestVerifierPatience.
type look struct {
	at       time.Duration
	tables   []*nft.Table
	update   *render.Update
	differ   []string // the Services of the frontends that differ
	changing int
}

// TestVerifierPatience: a difference counts when it has lasted without a change of the desired state, and no earlier.
func TestVerifierPatience(t *testing.T) {
	one, two := service("web", "10.96.0.1:80", "10.0.0.1:80"), service("web", "10.96.0.1:80", "10.0.0.2:80")
	node := render.Node{Name: "other"} // no endpoint is local
	first := render.Update{Node: node, Services: []render.Service{one}}
	second := render.Update{Node: node, Services: []render.Service{two}}
	third := render.Update{Node: node, Services: []render.Service{service("web", "10.96.0.1:80", "10.0.0.3:80")}}
	wrong, right := build(t, second), build(t, first)
	for name, looks := range map[string][]look{
		"equal":            {{0, right, nil, nil, 0}},
		"lasts":            {{0, wrong, nil, nil, 1}, {4 * time.Second, wrong, nil, nil, 1}, {5 * time.Second, wrong, nil, []string{"ns/web"}, 0}},
		"is repaired":      {{0, wrong, nil, nil, 1}, {5 * time.Second, right, nil, nil, 0}},
		"is repaired once": {{0, wrong, nil, nil, 1}, {3 * time.Second, right, nil, nil, 0}, {6 * time.Second, wrong, nil, nil, 1}},
		"stays wrong":      {{0, wrong, nil, nil, 1}, {4 * time.Second, build(t, third), nil, nil, 1}, {8 * time.Second, build(t, third), nil, []string{"ns/web"}, 0}},
		"the source moves": {{0, right, &second, nil, 1}, {5 * time.Second, right, nil, []string{"ns/web"}, 0}, {6 * time.Second, right, &first, nil, 0}},
	} {
		v := report.NewVerifier(node, 5*time.Second)
		v.Update(first)
		start := time.Now()
		for i, l := range looks {
			if l.update != nil {
				v.Update(*l.update)
			}
			got := v.Look(l.tables, start.Add(l.at))
			var differ []string
			for _, d := range got.Differing {
				differ = append(differ, d.Service)
			}
			if !slices.Equal(differ, l.differ) || got.Changing != l.changing || len(got.Differing)+len(got.Other) > len(l.differ) {
				t.Errorf("%s, look %d: %+v", name, i, got)
			}
			if got.Compared != 1 {
				t.Errorf("%s, look %d: compared %d", name, i, got.Compared)
			}
		}
	}
}

// TestVerifierNamesFrontends: frontends that only the tables have are named with the Service of their comment, and both sides are
// counted.
func TestVerifierNamesFrontends(t *testing.T) {
	node := render.Node{Name: "n"}
	a, b, c := service("a", "10.96.0.1:80", "10.0.0.1:80"), service("b", "10.96.0.2:80"), service("c", "[fd00::3]:80")
	v := report.NewVerifier(node, 0)
	v.Update(render.Update{Node: node, Services: []render.Service{a, c}})
	got := v.Look(build(t, render.Update{Node: node, Services: []render.Service{a, b}}), time.Now())
	var names []string
	for _, d := range got.Differing {
		names = append(names, d.Service+" "+d.Address.String())
	}
	if want := []string{"ns/b 10.96.0.2", "ns/c fd00::3"}; !slices.Equal(names, want) || got.Compared != 3 || got.OK() {
		t.Errorf("differing %q, want %q: %+v", names, want, got)
	}
}

// TestVerifierSlowStart: endpoints of a Service with slow start may have other weights, and no other endpoints or limits.
func TestVerifierSlowStart(t *testing.T) {
	node := render.Node{Name: "n"}
	desired := service("web", "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80")
	desired.SlowStart = time.Minute
	v := report.NewVerifier(node, 0)
	v.Update(render.Update{Node: node, Services: []render.Service{desired}})

	growing := service("web", "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80")
	growing.Ports[0].Endpoints[0].Weight = 3
	growing.Ports[0].Endpoints[1].Weight = 1
	if got := v.Look(build(t, render.Update{Node: node, Services: []render.Service{growing}}), time.Now()); !got.OK() || got.Growing != 1 {
		t.Errorf("other weights: %+v", got)
	}
	if got := v.Look(build(t, render.Update{Node: node, Services: []render.Service{service("web", "10.96.0.1:80", "10.0.0.1:80")}}), time.Now()); got.OK() {
		t.Errorf("an endpoint is missing: %+v", got)
	}
	limited := growing
	limited.Limits.Rate = nft.Limit{Packets: 1, Per: time.Second, Burst: 1}
	if got := v.Look(build(t, render.Update{Node: node, Services: []render.Service{limited}}), time.Now()); got.OK() {
		t.Errorf("a limit that the Service does not have: %+v", got)
	}
	// Without slow start the weights count.
	desired.SlowStart = 0
	v.Update(render.Update{Node: node, Services: []render.Service{desired}})
	if got := v.Look(build(t, render.Update{Node: node, Services: []render.Service{growing}}), time.Now()); got.OK() {
		t.Errorf("other weights without slow start: %+v", got)
	}
}

// TestVerifierMissingTables: if a program has deleted the table of a family, every frontend of that family is named, and all other
// differences are counted although not all are listed.
func TestVerifierMissingTables(t *testing.T) {
	node := render.Node{Name: "n"}
	u := render.Update{Node: node, Services: []render.Service{service("a", "10.96.0.1:80", "10.0.0.1:80"), service("b", "10.96.0.2:80"),
		service("c", "[fd00::3]:80", "[fd01::1]:80")}}
	v := report.NewVerifier(node, 0)
	v.Update(u)
	first := 0
	for i, want := range [][]string{{"ns/c fd00::3"}, {"ns/a 10.96.0.1", "ns/b 10.96.0.2", "ns/c fd00::3"}} {
		got := v.Look(build(t, u)[:1-i], time.Now())
		var names []string
		for _, d := range got.Differing {
			names = append(names, d.Service+" "+d.Address.String())
		}
		if !slices.Equal(names, want) || got.Compared != 3 || len(got.Other) != 11 {
			t.Errorf("differing %q, want %q: %+v", names, want, got)
		}
		if i == 0 {
			first = got.OtherCount
		} else if n := got.OtherCount; first < 20 || n < 2*first || n > 2*first+5 {
			t.Errorf("%d and %d other differences", first, n)
		}
	}
}
