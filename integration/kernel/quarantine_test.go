package kernel

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// converge compares the ruleset with the kernel's tables as the daemon does: Services whose rules the kernel refuses are
// quarantined. It returns the changes that the kernel accepted.
func (l *testNode) converge() []nft.Change {
	l.t.Helper()
	l.ruleset.Observe(l.tables())
	for {
		changes := l.ruleset.Plan()
		err := l.kernel.Apply(changes, 0)
		if err == nil {
			l.ruleset.Accept()
			return changes
		}
		var refusal *kernel.ChangeError
		if !errors.As(err, &refusal) {
			l.t.Fatal(err)
		}
		for _, name := range l.ruleset.Owners(refusal.Change) {
			if !l.ruleset.Quarantine(name) {
				l.t.Fatalf("%s is refused again: %v", name, err)
			}
		}
	}
}

// TestQuarantineAtStart: a new process that finds the rules of an earlier one keeps those of a Service whose new rules the kernel
// refuses, with its remembered clients. It programs all other Services. When the Service has rules that the kernel accepts, it gets
// them.
func TestQuarantineAtStart(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	s.service.LoadBalancerIPs, s.service.SourceRanges = []netip.Addr{netip.MustParseAddr("203.0.113.77")}, prefixes("10.244.0.0/16")
	s.restart(s.service)
	plain := service("plain", nft.TCP, "10.96.0.2:80", "10.244.1.2:8080")
	removed := service("removed", nft.TCP, "10.96.0.4:80", "10.244.1.2:8080")
	s.apply(render.Update{Services: []render.Service{plain, removed}})
	endpoints := s.connectAll(t, s.frontends()[0])
	before := s.tables()[0]

	refused, refusedPlain := s.service, plain
	extra := s.service.Ports[0]
	extra.Name, extra.Port, extra.NodePort = strings.Repeat("long", 60), 81, 0 // its affinity map has too long a name
	refused.Ports = []render.Port{s.service.Ports[0], extra}
	refusedPlain.Affinity = s.service.Affinity
	refusedPlain.Ports = []render.Port{plain.Ports[0]}
	refusedPlain.Ports[0].Name = extra.Name
	s.ruleset = render.NewRuleset(s.facts)
	s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{refused, refusedPlain,
		service("other", nft.TCP, "10.96.0.3:80", "10.244.1.3:8080")}})
	s.converge()

	if !s.ruleset.Quarantined(refused.ServiceName) || !s.ruleset.Quarantined(plain.ServiceName) {
		t.Fatal("the kernel does not refuse the Services")
	}
	after := s.tables()[0]
	for _, set := range before.Sets {
		have := after.Set(set.Name)
		if have == nil {
			t.Fatalf("%s is gone", set.Name)
		}
		for _, e := range set.Elements {
			kept := slices.ContainsFunc(have.Elements, func(h nft.Element) bool { return h.Key == e.Key && h.Data == e.Data })
			text := nft.Change{Op: nft.Delete, Object: nft.Elements{Set: set, List: []nft.Element{e}}}.String()
			if want := !strings.Contains(text, "10.96.0.4"); kept != want { // the removed Service
				t.Errorf("%s is due: %t, want %t", text, !kept, !want)
			}
		}
	}
	s.checkUnmoved(t, endpoints, "after a refusal at the start")
	for _, at := range []string{"10.96.0.2:80", "10.96.0.3:80"} {
		if _, err := connect(s.pod.Namespace, nft.TCP, s.clients[0].String()+":0", at, connectTimeout); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	if changes := s.converge(); !onlyUnusedChains(changes) {
		t.Errorf("another comparison applies %v", changes)
	}
	s.apply(render.Update{Services: []render.Service{s.service, plain}})
	s.checkUnmoved(t, endpoints, "after the end of the quarantine")
	if rest := nft.Diff(s.tables(), s.ruleset.Tables()); !onlyUnusedChains(rest) {
		t.Errorf("after the end of the quarantine the kernel differs by %v", rest)
	}
}
