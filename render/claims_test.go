package render

import (
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
)

// claimant is a Service that has 192.0.2.1:80 as something, and nothing else: the address is the node's, too.
func claimant(k Kind, name string, created int64) Service {
	s := testService(name, created, "192.0.2.1:80", "10.0.0.1:1")
	s.ClusterIPs = nil
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

// TestClaimsByKind: what the API server gives to one Service is not taken by one that names the same address, whoever is
// older, first by name or first to come, nor with policies and affinity of whatever kind; and it comes back at once.
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
						t.Errorf("%s over %s, %s: it belongs to %q", better, worse, policy, got)
					}
					r.Update(Update{Node: node, Removed: []ServiceName{victim.ServiceName}})
					converge(r)
					if got := ownerOf(r); got != "ns/a-thief:p" {
						t.Errorf("%s over %s, %s: afterwards it belongs to %q", better, worse, policy, got)
					}
				}
			}
		}
	}
}

func ownerOf(r *Ruleset) string {
	for _, e := range r.Tables()[0].Set("services").Elements {
		if strings.HasPrefix(string(e.Key), string(nft.Addr(netip.MustParseAddr("192.0.2.1"))+nft.Proto(nft.TCP)+nft.Port(80))) {
			return e.Comment
		}
	}
	return ""
}

// TestClaimChangesKind: an address that becomes another kind of address of the same Service is claimed as that.
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
			t.Errorf("as a's %s it belongs to %s, not %s", step.kind, got, step.want)
		}
	}
}

// TestFlowsToClaimed: UDP flows that came to another Service's endpoints by an external IP are stale once the address is a
// cluster IP, whatever that one's endpoints are.
func TestFlowsToClaimed(t *testing.T) {
	thief := Service{ServiceName: ServiceName{"test", "thief"}, ExternalIPs: addrs("10.96.0.10"), Ports: []Port{
		{Name: "dns", Protocol: nft.UDP, Port: 53, Endpoints: flowEndpoints("10.244.1.66:5353")}}}
	x, f := newOwnedIndex(), flow(nft.UDP, "10.96.0.10:53", "10.244.1.66:5353")
	x.Take(Update{Node: flowNode(), Services: []Service{thief}})
	if stale, why := x.Judge(f); stale {
		t.Fatal(why)
	}
	for _, endpoints := range [][]Endpoint{nil, flowEndpoints("10.244.1.2:5353")} {
		victim := flowService()
		victim.Ports[0].Endpoints = endpoints
		x.Take(Update{Node: flowNode(), Services: []Service{victim}})
		if stale, why := x.Judge(f); !stale {
			t.Errorf("with the endpoints %v: %s", endpoints, why)
		}
	}
	x.Take(Update{Node: flowNode(), Removed: []ServiceName{{"test", "dns"}}})
	if stale, why := x.Judge(f); stale {
		t.Error(why)
	}
}
