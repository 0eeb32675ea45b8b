package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// TestEndpointCounters: counters count the connections of each endpoint exactly, across changes of its slot and a restart.
func TestEndpointCounters(t *testing.T) {
	l := newTestNode(t).addNetwork()
	l.facts.Counters = render.CountEndpoints
	l.ruleset = render.NewRuleset(l.facts)
	var endpoints []string
	for i := range 4 {
		addr := fmt.Sprintf("10.244.1.%d", i+2)
		l.pod(addr, 8080, addr)
		endpoints = append(endpoints, addr+":8080")
	}
	client := l.pod("client", 0, "10.244.9.9")
	served := make(map[string]uint64)
	total := uint64(0)
	serve := func(of ...string) {
		t.Helper()
		s := service("s", nft.TCP, "10.96.0.1:80", of...)
		u := render.Update{Node: l.facts, Services: []render.Service{s}}
		if total == 0 {
			l.ruleset.Update(u)
			l.reconcile()
		} else {
			l.apply(u)
		}
		maps.DeleteFunc(served, func(e string, _ uint64) bool { // the counter of a removed endpoint starts at zero again
			for _, o := range of {
				if e == o {
					return false
				}
			}
			return true
		})
		for range 25 {
			got, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout)
			if err != nil {
				t.Fatal(err)
			}
			served[got.endpoint.String()]++
			total++
		}
		checkCounters(t, l, served, total)
	}
	serve(endpoints[:3]...)
	serve(endpoints[1], endpoints[2]) // the last moves into the first slot
	serve(endpoints...)
	serve(endpoints[3], endpoints[2], endpoints[0])
	serve(endpoints[0])
	l.ruleset = render.NewRuleset(l.facts)
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", endpoints[0])}})
	if changes := l.reconcile(); !onlyUnusedChains(changes) {
		t.Errorf("a restart applies %v, want no change", changes)
	}
	checkCounters(t, l, served, total)
	serve(endpoints[0], endpoints[1])
}

// checkCounters compares the counters of the only Service with the connections made.
func checkCounters(t *testing.T, l *testNode, served map[string]uint64, total uint64) {
	t.Helper()
	f := report.Describe(l.tables()).Services[0].Frontends[0]
	if f.Connections == nil || *f.Connections != total {
		t.Errorf("the frontend counts %v connections, want %d", f.Connections, total)
	}
	for _, e := range f.Endpoints {
		at := netip.AddrPortFrom(e.Address, e.Port).String()
		if e.Connections == nil || *e.Connections != served[at] {
			t.Errorf("endpoint %s counts %v connections, want %d", at, e.Connections, served[at])
		}
	}
}

// TestCountNothing: without connection counters the tables have none, even if they had some before.
func TestCountNothing(t *testing.T) {
	l := newTestNode(t)
	s := render.Update{Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:80")}}
	s.Node = l.facts
	l.ruleset.Update(s)
	l.reconcile()
	l.facts.Counters = render.CountNothing
	l.ruleset = render.NewRuleset(l.facts)
	s.Node = l.facts
	l.ruleset.Update(s)
	l.reconcile()
	if e := l.tables()[0].Set("services").Elements[0]; e.Counter != nil {
		t.Errorf("an element has the counter %+v, want none", e.Counter)
	}
	l.apply(render.Update{Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:80", "10.244.1.3:80")}})
}

// TestCountersOfAction: a frontend's counter starts at zero when its action changes; connections that were balanced and
// connections that were refused are not added up.
func TestCountersOfAction(t *testing.T) {
	l := newTestNode(t).addNetwork()
	l.pod("a", 8080, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	counts := func(action string, want uint64) {
		t.Helper()
		f := report.Describe(l.tables()).Services[0].Frontends[0]
		if f.Action != action || *f.Connections != want {
			t.Errorf("%s counts %d, want %s %d", f.Action, *f.Connections, action, want)
		}
	}
	dial := func(n int) {
		for range n {
			_, _ = connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout) // refused or not
		}
	}
	none, one := service("s", nft.TCP, "10.96.0.1:80"), service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080")
	two := service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080", "10.244.1.2:8080")
	two.Ports[0].Endpoints[1].AddrPort = netip.MustParseAddrPort("10.244.1.2:8081")
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{none}})
	l.reconcile()
	dial(3)
	counts("refuse", 3)
	l.apply(render.Update{Services: []render.Service{one}})
	counts("balance", 0)
	dial(5)
	counts("balance", 5)
	l.apply(render.Update{Services: []render.Service{two}})
	counts("balance", 5)
	l.apply(render.Update{Services: []render.Service{none}})
	counts("refuse", 0)
}
