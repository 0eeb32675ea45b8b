package watcher

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/render"
)

// TestReduceWeight: the annotation of an EndpointSlice sets the weight of its endpoints. An invalid one is reported, and the
// endpoints get the default.
func TestReduceWeight(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		annotations map[string]string
		want        weight
		problem     string
	}{
		{nil, weight{}, ""},
		{map[string]string{"example.org/weight": "7"}, weight{}, ""},
		{map[string]string{"nfproxy.io/weight": "1"}, weight{share: 1}, ""},
		{map[string]string{"nfproxy.io/weight": "1000"}, weight{share: 1000}, ""},
		{map[string]string{"nfproxy.io/weight": "0"}, weight{drained: true}, ""},
		{map[string]string{"service.cilium.io/weight": "5"}, weight{share: 5}, ""},
		{map[string]string{"nfproxy.io/weight": "3", "service.cilium.io/weight": "5"}, weight{share: 3}, ""},
		{map[string]string{"nfproxy.io/weight": "-1"}, weight{}, "nfproxy.io/weight"},
		{map[string]string{"nfproxy.io/weight": "1001"}, weight{}, "nfproxy.io/weight"},
		{map[string]string{"nfproxy.io/weight": "99999999999999999999"}, weight{}, "nfproxy.io/weight"},
		{map[string]string{"nfproxy.io/weight": "1.5"}, weight{}, "nfproxy.io/weight"},
		{map[string]string{"nfproxy.io/weight": ""}, weight{}, "nfproxy.io/weight"},
		{map[string]string{"service.cilium.io/weight": "many"}, weight{}, "service.cilium.io/weight"},
	} {
		s := reduceSlice(apiSlice("web-1", func(s *discoveryv1.EndpointSlice) { s.Annotations = tt.annotations }))
		if got := (weight{s.endpoints[0].Weight, s.endpoints[0].Drained}); got != tt.want {
			t.Errorf("%v: got %+v, want %+v", tt.annotations, got, tt.want)
		}
		var want []Problem
		if tt.problem != "" {
			text := tt.annotations[tt.problem]
			want = []Problem{{Object: "EndpointSlice default/web-1", Field: "metadata.annotations[" + tt.problem + "]",
				Detail: fmt.Sprintf("%q is not a weight from 0 to 1000; the endpoints get weight 1", text)}}
		}
		if diff := cmp.Diff(want, s.problems, compare); diff != "" {
			t.Errorf("%v: problems (-want +got):\n%s", tt.annotations, diff)
		}
	}
}

// TestWeightsDisagree: of an address and port in slices with different weights the smaller weight holds, 0 before all others, and the
// difference is reported. A slice without endpoints has no effect.
func TestWeightsDisagree(t *testing.T) {
	t.Parallel()
	of := func(name, weight string, endpoints ...discoveryv1.Endpoint) *slice {
		return reduceSlice(apiSlice(name, func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = endpoints
			if weight != "" {
				s.Annotations = map[string]string{annotationWeight: weight}
			}
		}))
	}
	at := apiEndpoint("10.1.0.1")
	for _, tt := range []struct {
		name    string
		from    []*slice
		weight  uint16
		drained bool
	}{
		{"smaller", []*slice{of("a", "5", at), of("b", "3", at)}, 3, false},
		{"maintenance", []*slice{of("a", "5", at), of("b", "0", at)}, 0, true},
		{"default", []*slice{of("a", "5", at), of("b", "", at)}, 0, false},
		{"absent endpoint", []*slice{of("a", "5", at), of("b", "0")}, 5, false},
	} {
		for range 2 {
			problems := disagreements(tt.from[0], tt.from)
			if shared := len(tt.from[0].endpoints)*len(tt.from[1].endpoints) > 0; (len(problems) == 1) != shared {
				t.Errorf("%s: problems %v", tt.name, problems)
			}
			got := join(render.Node{}, reduceService(apiService(nil), render.Instance{}), tt.from).Ports[0].Endpoints
			if len(got) != 1 || got[0].Weight != tt.weight || got[0].Drained != tt.drained {
				t.Errorf("%s: %+v", tt.name, got)
			}
			tt.from[0], tt.from[1] = tt.from[1], tt.from[0]
		}
	}
}

// TestReduceHashing: annotations of a Service choose the algorithm. Other values are reported, and the default applies.
func TestReduceHashing(t *testing.T) {
	t.Parallel()
	const algorithm, hashOn, cilium = "nfproxy.io/lb-algorithm", "nfproxy.io/hash-on", "service.cilium.io/lb-algorithm"
	for _, tt := range []struct {
		annotations   map[string]string
		want          render.Hashing
		field, detail string // of the problem
	}{
		{nil, render.NoHashing, "", ""},
		{map[string]string{algorithm: "random"}, render.NoHashing, "", ""},
		{map[string]string{algorithm: "maglev"}, render.HashClients, "", ""},
		{map[string]string{cilium: "maglev"}, render.HashClients, "", ""},
		{map[string]string{algorithm: "random", cilium: "maglev"}, render.NoHashing, "", ""},
		{map[string]string{algorithm: "maglev", hashOn: "client"}, render.HashClients, "", ""},
		{map[string]string{algorithm: "maglev", hashOn: "connection"}, render.HashConnections, "", ""},
		{map[string]string{algorithm: "maglev", hashOn: "cookie"}, render.HashClients, hashOn, `"cookie" is neither client nor connection; clients are hashed`},
		{map[string]string{algorithm: "wrr"}, render.NoHashing, algorithm, `"wrr" is neither random nor maglev; endpoints are chosen at random`},
		{map[string]string{cilium: "Maglev"}, render.NoHashing, cilium, `"Maglev" is neither random nor maglev; endpoints are chosen at random`},
		{map[string]string{hashOn: "connection"}, render.NoHashing, hashOn, `"connection" has no effect without nfproxy.io/lb-algorithm: maglev`},
	} {
		s := reduceService(apiService(func(s *corev1.Service) { s.Annotations = tt.annotations }), render.Instance{})
		if s.Hashing != tt.want {
			t.Errorf("%v: got %d, want %d", tt.annotations, s.Hashing, tt.want)
		}
		var want []Problem
		if tt.field != "" {
			want = []Problem{{Object: "Service default/web", Field: "metadata.annotations[" + tt.field + "]", Detail: tt.detail}}
		}
		if diff := cmp.Diff(want, s.problems, compare); diff != "" {
			t.Errorf("%v: problems (-want +got):\n%s", tt.annotations, diff)
		}
	}
}

// TestReduceSlowStart: the annotation of a Service sets the time. A wrong one is reported, and nothing grows.
func TestReduceSlowStart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"60s": time.Minute, "1s": time.Second, "1h": time.Hour, "0": 0, "0s": 0,
		"": -1, "60": -1, "999ms": -1, "61m": -1, "-1s": -1, "soon": -1} {
		s := reduceService(apiService(func(s *corev1.Service) { s.Annotations = map[string]string{annotationSlowStart: text} }), render.Instance{})
		if s.SlowStart != max(want, 0) || (len(s.problems) > 0) != (want < 0) {
			t.Errorf("%q: %v, with the problems %v", text, s.SlowStart, s.problems)
		}
	}
}

// TestIgnoredAnnotationsAreReported: Updates have the invalid annotations of a Service and its slices, also if nothing else of the Service
// changes, and no longer when these are corrected or gone. Problems of other fields are not among them.
func TestIgnoredAnnotationsAreReported(t *testing.T) {
	t.Parallel()
	c := newCatalog(slog.New(slog.DiscardHandler))
	service := func(annotations map[string]string) {
		c.put(object{service: reduceService(apiService(func(s *corev1.Service) {
			s.Annotations, s.Spec.ExternalIPs = annotations, []string{"nonsense"}
		}), render.Instance{})})
	}
	slice := func(name, weight string) {
		c.put(object{slice: reduceSlice(apiSlice(name, func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{annotationWeight: weight}
			if weight == "" {
				s.Annotations = nil
			}
		}))})
	}
	check := func(step string, want ...string) {
		t.Helper()
		u, changed := c.update(render.Node{})
		var got []string
		for _, s := range u.Services {
			for _, a := range s.Ignored {
				got = append(got, a.Object+" "+a.Field)
			}
		}
		if !changed || len(u.Services) != 1 || !slices.Equal(got, want) {
			t.Errorf("%s: changed %v, %q, want %q", step, changed, got, want)
		}
	}
	const serviceField, sliceField = "metadata.annotations[nfproxy.io/slow-start]", "metadata.annotations[nfproxy.io/weight]"
	service(map[string]string{annotationSlowStart: "soon"})
	slice("web-1", "heavy")
	check("both are wrong", "Service default/web "+serviceField, "EndpointSlice default/web-1 "+sliceField)
	slice("web-1", "heavier")
	check("another wrong value", "Service default/web "+serviceField, "EndpointSlice default/web-1 "+sliceField)
	slice("web-1", "")
	check("the slice is corrected", "Service default/web "+serviceField)
	slice("web-2", "-1")
	check("another slice", "Service default/web "+serviceField, "EndpointSlice default/web-2 "+sliceField)
	service(nil)
	check("the Service is corrected", "EndpointSlice default/web-2 "+sliceField)
	c.remove(objectKey{sliceKind, "default", "web-2"})
	check("the slice is gone")
	if u, changed := c.update(render.Node{}); changed {
		t.Errorf("%v without a change", u.Services)
	}
}
