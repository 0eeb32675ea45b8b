package render

import (
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
)

// claimant returns a Service with the frontend 192.0.2.1:80, an address of the node too, as the given kind. Its cluster IP is
// another address if the kind is not ClusterIP.
func claimant(k Kind, name string, created int64) Service {
	s := testService(name, created, "192.0.2.1:80", "10.0.0.1:1")
	s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(created)})}
	addr := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	switch k {
	case ClusterIP:
		s.ClusterIPs = addr
	case ExternalIP:
		s.ExternalIPs = addr
	case LoadBalancer:
		s.LoadBalancerIPs = addr
	case NodePort:
		s.Ports[0].Port, s.Ports[0].NodePort = 1, 80
	}
	return s
}

// TestClaimsByKind: the kind of a frontend decides which of two Services owns it, whichever is older, first by name or first to
// come, and whatever their policies and affinity are. When the owner is removed, the other Service takes over at once.
func TestClaimsByKind(t *testing.T) {
	node := Node{Name: "n", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	ranks := []Kind{ClusterIP, NodePort, LoadBalancer, ExternalIP}
	policies := map[string]func(*Service){
		"plain": func(*Service) {}, "affinity": func(s *Service) { s.Affinity = 1e9 }, "no endpoints": func(s *Service) { s.Ports[0].Endpoints = nil },
		"local": func(s *Service) { s.InternalLocal, s.ExternalLocal = true, true },
		"local elsewhere": func(s *Service) {
			s.InternalLocal, s.ExternalLocal, s.Ports[0].Endpoints[0].Node = true, true, "m"
		},
		"ranges": func(s *Service) { s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
	}
	for i, better := range ranks {
		for _, worse := range ranks[i+1:] {
			for policy, with := range policies {
				victim, thief := claimant(better, "victim", 2), claimant(worse, "a-thief", 1)
				with(&victim)
				with(&thief)
				for _, order := range [][]Service{{victim, thief}, {thief, victim}} {
					r := NewRuleset(node)
					reconcile(r, nil)
					var conflicts []Conflict
					for _, s := range order {
						conflicts = append(conflicts, r.Update(Update{Node: node, Services: []Service{s}})...)
						converge(r)
					}
					if len(conflicts) != 1 || conflicts[0].Winner.Name != "victim" || !strings.Contains(conflicts[0].String(),
						"belongs to Service ns/victim as its "+string(better)+"; Service ns/a-thief claims it as its "+string(worse)) {
						t.Errorf("%s over %s, %s: %v", better, worse, policy, conflicts)
					}
					if got := ownerOf(r); got != "ns/victim:p" {
						t.Errorf("%s over %s, %s: the owner is %q", better, worse, policy, got)
					}
					r.Update(Update{Node: node, Removed: []ServiceName{victim.ServiceName}})
					converge(r)
					if got := ownerOf(r); got != "ns/a-thief:p" {
						t.Errorf("%s over %s, %s: without the owner the frontend belongs to %q", better, worse, policy, got)
					}
				}
			}
		}
	}
}

// ownerOf returns the label of the frontend 192.0.2.1:80.
func ownerOf(r *Ruleset) string {
	for _, e := range r.Tables()[0].Set("services").Elements {
		if strings.HasPrefix(string(e.Key), string(nft.Addr(netip.MustParseAddr("192.0.2.1"))+nft.Proto(nft.TCP)+nft.Port(80))) {
			return e.Comment
		}
	}
	return ""
}

// TestClaimChangesKind: when an address becomes another kind of address of its Service, the claim changes with it.
func TestClaimChangesKind(t *testing.T) {
	r := NewRuleset(Node{Name: "n"})
	reconcile(r, nil)
	r.Update(Update{Node: r.node, Services: []Service{claimant(LoadBalancer, "b", 2), claimant(ExternalIP, "a", 1)}})
	for _, step := range []struct {
		kind Kind
		want string
	}{{LoadBalancer, "ns/a:p"}, {ExternalIP, "ns/b:p"}, {ClusterIP, "ns/a:p"}} {
		r.Update(Update{Node: r.node, Services: []Service{claimant(step.kind, "a", 1)}})
		converge(r)
		if got := ownerOf(r); got != step.want {
			t.Errorf("as the %s of Service a: the owner is %s, want %s", step.kind, got, step.want)
		}
	}
}

// TestConflicts: the oldest Service owns the frontend, whatever the order of updates, and the next oldest takes over.
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
			t.Fatalf("the frontends of %v have the endpoints %v", owners, endpoints)
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
			t.Errorf("%d conflicts were reported, want 2", conflicts)
		}
		for _, step := range []struct {
			removed string
			want    string
		}{{"", "ns/old:p"}, {"middle", "ns/old:p"}, {"old", "ns/a-young:p"}, {"a-young", ""}} {
			r.Update(Update{Node: r.node, Removed: []ServiceName{{"ns", step.removed}}})
			converge(r)
			if got := owner(r); got != step.want {
				t.Errorf("without %q the owner is %q, want %q", step.removed, got, step.want)
			}
		}
		if len(r.claims.owners)+len(r.claims.rivals)+len(r.services)+len(r.applied.shared) > 0 {
			t.Errorf("state is left over: %v %v %v %v", r.claims.owners, r.claims.rivals, r.services, r.applied.shared)
		}
	}
}

// TestConflictAcrossRecreation: a Service that was deleted and created again loses its precedence.
func TestConflictAcrossRecreation(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	r.Update(Update{Services: []Service{testService("a", 1, "10.96.0.1:80"), testService("b", 2, "10.96.0.1:80")}})
	conflicts := r.Update(Update{Services: []Service{testService("a", 3, "10.96.0.1:80")}})
	if len(conflicts) != 1 || conflicts[0].Winner.Name != "b" || conflicts[0].Loser.Name != "a" {
		t.Errorf("the conflicts are %v", conflicts)
	}
	converge(r)
	if got := r.Tables()[0].Set("services").Elements[0].Comment; got != "ns/b:p" {
		t.Errorf("the owner is %s, want ns/b:p", got)
	}
}
