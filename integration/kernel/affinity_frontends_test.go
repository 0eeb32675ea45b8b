package kernel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// affinityConnections is how often each client connects to each frontend. With two endpoints and no affinity, a client reaches
// one endpoint only in one of 2^(affinityConnections-1) runs.
const affinityConnections = 10

// newAffinityFrontends returns a node with a Service that has session affinity and frontends of every kind. Its endpoints are
// named by trafficAddrs; "node" stands for two endpoints on the node itself, those of Pods with hostNetwork.
func newAffinityFrontends(t *testing.T, f nft.Family, p nft.Protocol, change func(*render.Service), endpoints ...string) *trafficNode {
	t.Helper()
	w := newTrafficNode(t, f)
	for name, addr := range matrixAddrs(f) {
		w.extra[name] = addr
	}
	var texts []string
	for _, e := range endpoints {
		switch e {
		case "node":
			for _, port := range []uint16{9001, 9002} {
				w.serve(&sandbox.Pod{Namespace: w.node}, netip.MustParseAddrPort(w.at("node", port)))
				texts = append(texts, w.at("node", port))
			}
		case "c":
			texts = append(texts, w.at(e, 8080)+" remote")
		default:
			texts = append(texts, w.at(e, 8080))
		}
	}
	s := w.service("cluster", p, texts...)
	s.Affinity = 3 * time.Hour
	change(&s)
	w.ruleset.Update(render.Update{Node: w.facts, Services: []render.Service{s}})
	w.reconcile()
	return w
}

// endpointsOf returns the endpoints that a client reaches through frontends of some kinds, with the number of its connections to
// each.
func (w *trafficNode) endpointsOf(t *testing.T, p nft.Protocol, client string, kinds ...string) map[string]int {
	t.Helper()
	reached := make(map[string]int)
	for range affinityConnections {
		for _, kind := range kinds {
			to, port := target("cluster", kind)
			got, err := connect(w.from(client), p, w.source(client), w.at(to, port), connectTimeout)
			if err != nil {
				t.Fatalf("from %s to the %s: %v", client, kind, err)
			}
			reached[got.endpoint.String()]++
		}
	}
	return reached
}

// TestAffinityFrontends: a client keeps one endpoint over all frontends of a Service, whether the endpoint is a Pod of this node,
// the node itself or on another node, and wherever the client is.
func TestAffinityFrontends(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			for _, endpoints := range [][]string{{"node"}, {"a", "b"}, {"a", "node", "c"}} {
				t.Run(fmt.Sprintf("%s/%s/%v", f, p, endpoints), func(t *testing.T) {
					w := newAffinityFrontends(t, f, p, func(*render.Service) {}, endpoints...)
					for _, client := range matrixSources {
						if reached := w.endpointsOf(t, p, client, matrixKinds...); len(reached) != 1 {
							t.Errorf("client %s reaches %v", client, reached)
						}
					}
				})
			}
		}
	}
}

// TestAffinityMixedPolicies: with different internal and external traffic policies, a client keeps its endpoint where that
// endpoint may serve: a client that was first sent to an endpoint of this node by one frontend reaches it by the others too.
func TestAffinityMixedPolicies(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for name, c := range map[string]struct {
			change func(*render.Service)
			first  string // the kind of frontend that only endpoints of this node serve
		}{
			"external Local": {func(s *render.Service) { s.ExternalLocal = true }, "load-balancer"},
			"internal Local": {func(s *render.Service) { s.InternalLocal = true }, "cluster-ip"},
		} {
			t.Run(f.String()+"/"+name, func(t *testing.T) {
				w := newAffinityFrontends(t, f, nft.TCP, c.change, "a", "b", "node", "c")
				for _, client := range matrixSources {
					if name == "external Local" && client != "outside" { // the others reach every endpoint by any frontend
						continue
					}
					first := w.endpointsOf(t, nft.TCP, client, c.first)
					then := w.endpointsOf(t, nft.TCP, client, matrixKinds...)
					if len(first) != 1 || len(then) != 1 {
						t.Errorf("client %s reaches %v, then %v", client, first, then)
						continue
					}
					for e := range first {
						if then[e] == 0 {
							t.Errorf("client %s reaches %v, then %v", client, first, then)
						}
					}
				}
			})
		}
	}
}

// TestAffinityLosesFirstEndpoint: a client that loses the endpoint that it had by the cluster IP continues there with the one that
// it has by a frontend with policy Local.
func TestAffinityLosesFirstEndpoint(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			t.Run(f.String()+"/"+p.String(), func(t *testing.T) {
				policy := func(s *render.Service) { s.ExternalLocal = true }
				w := newAffinityFrontends(t, f, p, policy, "c")
				serve := func(names ...string) {
					var texts []string
					for _, name := range names {
						texts = append(texts, w.at(name, 8080))
					}
					if names[0] == "c" {
						texts[0] += " remote"
					}
					s := w.service("cluster", p, texts...)
					s.Affinity = 3 * time.Hour
					policy(&s)
					w.ruleset.Update(render.Update{Node: w.facts, Services: []render.Service{s}})
					w.reconcile()
				}
				w.endpointsOf(t, p, "outside", "cluster-ip")
				serve("c", "a", "b")
				local := w.endpointsOf(t, p, "outside", "load-balancer")
				serve("a", "b")
				then := w.endpointsOf(t, p, "outside", "cluster-ip", "load-balancer")
				if len(local) != 1 || len(then) != 1 {
					t.Fatalf("the client reaches %v, then %v", local, then)
				}
				for e := range local {
					if then[e] == 0 {
						t.Errorf("the client reaches %v, then %v", local, then)
					}
				}
			})
		}
	}
}
