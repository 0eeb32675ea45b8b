package watcher

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestJoinDifferences: after random changes of slices, a join that looks only at the differences has the result of a join of
// everything, and it returns the list of endpoints itself if that has not changed. Addresses are in several slices, with other
// conditions, ports, hints and weights, about which slices disagree.
func TestJoinDifferences(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		c := newCatalog(slog.New(slog.DiscardHandler))
		svc := reduceService(apiService(func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Protocol: "UDP", Port: 53})
		}), render.Instance{})
		c.putService(svc)
		c.update(render.Node{})
		spliced, kept, disagreeing := 0, 0, 0
		for range 500 {
			if name := fmt.Sprintf("web-%d", r.IntN(6)); r.IntN(5) == 0 {
				c.removeSlice(sliceName{"default", name})
			} else {
				c.putSlice(reduceSlice(randomSlice(r, name)))
			}
			if r.IntN(4) == 0 { // several changes until the next join
				continue
			}
			before, from := c.services[svc.ServiceName].reported, c.services[svc.ServiceName].slices
			for i, p := range svc.Ports {
				compareJoins(t, before, i, from)
				spliced += len(before.differing(p, from))
			}
			c.update(render.Node{})
			after := c.services[svc.ServiceName].reported
			if want := join(render.Node{}, svc, slices.Collect(maps.Values(c.slices))); !equal(after.value(), want) {
				t.Fatalf("the catalog has %v, want %v", brief(after.value()), brief(want))
			}
			reported := slices.Equal(before.ignored(), after.ignored())
			if service, endpoints := after.differs(before); service == reported || (service || endpoints) == equal(before.value(), after.value()) {
				t.Fatalf("from %v to %v the Service differs: %t, its endpoints differ: %t", brief(before.value()), brief(after.value()), service, endpoints)
			} else if !endpoints {
				kept++
			}
			disagreeing += len(after.problems)
		}
		if spliced < 500 || kept < 5 || disagreeing < 20 {
			t.Errorf("%d endpoints differed, %d changes of slices left the endpoints as they were, %d slices disagreed", spliced, kept, disagreeing)
		}
	}
}

// compareJoins compares the two ways to get the endpoints of a port.
func compareJoins(t *testing.T, before *joined, port int, from []*slice) {
	t.Helper()
	p, have := before.service.Ports[port], before.ports[port].Endpoints
	all := endpoints(p, from)
	got := spliced(have, before.differing(p, from), p, from)
	if !slices.EqualFunc(all, got, equalEndpoints) {
		t.Fatalf("port %s: the join of differences has %v, that of everything %v", p.Name, got, all)
	}
	if slices.EqualFunc(have, all, equalEndpoints) && !sameLists(have, got) {
		t.Fatalf("port %s: a list with the same endpoints is another list", p.Name)
	}
}

// randomSlice returns a slice with a few endpoints out of eight addresses.
func randomSlice(r *rand.Rand, name string) *discoveryv1.EndpointSlice {
	return apiSlice(name, func(s *discoveryv1.EndpointSlice) {
		s.Endpoints, s.Ports = nil, nil
		if r.IntN(2) == 0 {
			s.Annotations = map[string]string{annotationWeight: []string{"0", "1", "3", "7", "many"}[r.IntN(5)]}
		}
		for range r.IntN(4) {
			s.Ports = append(s.Ports, []discoveryv1.EndpointPort{
				{Name: new("http"), Port: new(int32(8080))},
				{Name: new("http"), Port: new(int32(8080))},
				{Name: new("http"), Port: new(int32(8081))},
				{Name: new("dns"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(5353))},
				{Name: new("dns"), Port: new(int32(5353))},
			}[r.IntN(5)])
		}
		for range r.IntN(5) {
			e := apiEndpoint(fmt.Sprintf("10.1.0.%d", 1+r.IntN(8)))
			e.NodeName = new(fmt.Sprint("node-", r.IntN(2)))
			e.Conditions = discoveryv1.EndpointConditions{Ready: new(r.IntN(2) == 0), Terminating: new(r.IntN(3) == 0)}
			if r.IntN(3) == 0 {
				e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: fmt.Sprint("z", r.IntN(2))}}}
			}
			s.Endpoints = append(s.Endpoints, e)
		}
	})
}

// TestSliceEvents: after random changes of slices, the tables that were changed step by step have what the tables of an empty kernel
// have, slots aside, and a comparison with the kernel finds nothing to change. Services have session affinity, the policies Local,
// hints, weights and endpoints that are in two slices.
func TestSliceEvents(t *testing.T) {
	t.Parallel()
	for seed := range uint64(16) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newCatalog(slog.New(slog.DiscardHandler))
		node := render.Node{Name: "node-0", Zone: "z0", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		svc := reduceService(apiService(func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeNodePort
			s.Spec.Ports[0].NodePort = 30080
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Protocol: "UDP", Port: 53, NodePort: 30053})
			s.Spec.ExternalIPs = []string{"203.0.113.1"}
			if seed&1 != 0 {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			}
			if seed&2 != 0 {
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			}
			if seed&4 != 0 {
				s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
			}
		}), render.Instance{})
		c.putService(svc)
		ruleset := render.NewRuleset(node)
		ruleset.Observe(nil)
		changes := 0
		for range 200 {
			if name := fmt.Sprintf("web-%d", r.IntN(6)); r.IntN(5) == 0 {
				c.removeSlice(sliceName{"default", name})
			} else {
				c.putSlice(reduceSlice(randomSlice(r, name)))
			}
			update, _ := c.update(node)
			ruleset.Update(update)
			changes += nft.ElementOperations(ruleset.Plan())
			ruleset.Accept()
			all := render.Update{Node: update.Node, Services: []render.Service{join(node, svc, slices.Collect(maps.Values(c.slices)))}}
			if diff := cmp.Diff(withoutSlots(render.Tables(all)), withoutSlots(ruleset.Tables())); diff != "" {
				t.Fatalf("seed %d: after changes the tables differ from those of an empty kernel:\n%s", seed, diff)
			}
			if diff := cmp.Diff(endpointsOf(render.Tables(all)), endpointsOf(ruleset.Tables())); diff != "" {
				t.Fatalf("seed %d: after changes the endpoints differ:\n%s", seed, diff)
			}
			again := render.NewRuleset(node)
			again.Update(all)
			again.Observe(ruleset.Tables())
			if more := nft.ElementOperations(again.Plan()); more > 0 {
				t.Fatalf("seed %d: a comparison with the kernel finds %d more operations", seed, more)
			}
		}
		if changes < 200 {
			t.Errorf("seed %d: only %d operations", seed, changes)
		}
	}
}

// endpointsOf returns the endpoints of each frontend in tables, whatever their slots, sorted.
func endpointsOf(tables []*nft.Table) (all []string) {
	for _, t := range tables {
		for _, s := range t.Sets {
			for _, e := range s.Elements {
				if s.Name == "endpoints" || s.Name == "local-endpoints" {
					all = append(all, fmt.Sprintf("%s %x %x", s.Name, string(e.Key[:len(e.Key)-nft.SlotNumber.Width()]), string(e.Data)))
				}
			}
		}
	}
	slices.Sort(all)
	return all
}
