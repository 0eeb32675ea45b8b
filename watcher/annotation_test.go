package watcher

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/logtest"
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
		{map[string]string{"nfproxy.io/weight": "-0"}, weight{}, "nfproxy.io/weight"},
		{map[string]string{"nfproxy.io/weight": "٣"}, weight{}, "nfproxy.io/weight"},
		{map[string]string{"nfproxy.io/weight": "3\x00"}, weight{}, "nfproxy.io/weight"},
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
// other slice is reported. A slice without endpoints has no effect, and neither has a slice with the same weight or for another port.
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
	leaving := apiEndpoint("10.1.0.1")
	leaving.Conditions.Terminating = new(true)
	other := of("b", "3", at)
	other.ports = []slicePort{{name: "other", protocol: other.ports[0].protocol, port: other.ports[0].port}}
	for _, tt := range []struct {
		name    string
		from    []*slice
		weight  uint16
		drained bool
		problem string // of slice a
	}{
		{"smaller", []*slice{of("a", "5", at), of("b", "3", at)}, 3, false, "10.1.0.1:8080 is also in EndpointSlice b, whose weight 3 applies"},
		{"maintenance", []*slice{of("a", "5", at), of("b", "0", at)}, 0, true, "10.1.0.1:8080 is also in EndpointSlice b, whose weight 0 applies"},
		{"default", []*slice{of("a", "5", at), of("b", "", at)}, 0, false, "10.1.0.1:8080 is also in EndpointSlice b, whose weight 1 applies"},
		{"terminating", []*slice{of("a", "3", leaving), of("b", "5", at)}, 5, false, "10.1.0.1:8080 is also in EndpointSlice b, whose weight 5 applies"},
		{"absent endpoint", []*slice{of("a", "5", at), of("b", "0")}, 5, false, ""},
		{"written differently", []*slice{of("a", "1", at), of("b", "", at)}, 1, false, ""},
		{"other port", []*slice{of("a", "5", at), other}, 5, false, ""},
	} {
		var want []render.IgnoredAnnotation
		if tt.problem != "" {
			want = []render.IgnoredAnnotation{{Object: "EndpointSlice default/a", Field: "metadata.annotations[nfproxy.io/weight]", Detail: tt.problem}}
		}
		for range 2 {
			got := join(render.Node{}, reduceService(apiService(nil), render.Instance{}), tt.from)
			if diff := cmp.Diff(want, got.Ignored); diff != "" {
				t.Errorf("%s: ignored (-want +got):\n%s", tt.name, diff)
			}
			if e := got.Ports[0].Endpoints; len(e) != 1 || max(e[0].Weight, 1) != max(tt.weight, 1) || e[0].Drained != tt.drained {
				t.Errorf("%s: %+v", tt.name, e)
			}
			tt.from[0], tt.from[1] = tt.from[1], tt.from[0]
		}
	}
}

// TestManyWeightsDisagree: of any number of slices that disagree, as many are reported as problems of one object.
func TestManyWeightsDisagree(t *testing.T) {
	t.Parallel()
	var from []*slice
	for i := range 3 * maxProblems {
		from = append(from, reduceSlice(apiSlice(fmt.Sprintf("s%04d", i), func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = []discoveryv1.Endpoint{apiEndpoint("10.1.0.1"), apiEndpoint("10.1.0.2")}
			s.Annotations = map[string]string{annotationWeight: fmt.Sprint(i + 1)}
		})))
	}
	if got := join(render.Node{}, reduceService(apiService(nil), render.Instance{}), from).Ignored; len(got) != maxProblems {
		t.Errorf("%d problems", len(got))
	}
}

// TestDisagreementIsReported: slices that come to disagree about a weight are reported in the Update and logged once, and no longer when
// they agree again, whatever changes meanwhile.
func TestDisagreementIsReported(t *testing.T) {
	t.Parallel()
	var out logtest.Buffer
	c := newCatalog(out.Logger(slog.LevelWarn))
	slice := func(name, weight string, addresses ...string) {
		c.put(object{slice: reduceSlice(apiSlice(name, func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{annotationWeight: weight}
			s.Endpoints = nil
			for _, a := range addresses {
				s.Endpoints = append(s.Endpoints, apiEndpoint(a))
			}
		}))})
	}
	check := func(step string, ignored, lines int) {
		t.Helper()
		u, changed := c.update(render.Node{})
		if got := u.Services; !changed || len(got) != 1 || len(got[0].Ignored) != ignored {
			t.Errorf("%s: changed %v, %+v", step, changed, got)
		}
		if got := out.Lines("part of an object cannot be used", `object="EndpointSlice default/web-1"`, "metadata.annotations[nfproxy.io/weight]"); len(got) != lines {
			t.Errorf("%s: logged\n%s", step, out.String())
		}
	}
	c.put(object{service: reduceService(apiService(nil), render.Instance{})})
	slice("web-1", "7", "10.1.0.1", "10.1.0.2")
	check("one slice", 0, 0)
	slice("web-2", "3", "10.1.0.2")
	check("two slices", 1, 1)
	slice("web-3", "9", "10.1.0.9")
	check("another endpoint", 1, 1)
	slice("web-2", "3", "10.1.0.3")
	check("the endpoint is in one slice", 0, 1)
	slice("web-2", "3", "10.1.0.2")
	check("it is in two again", 1, 2)
	c.remove(objectKey{sliceKind, "default", "web-2"})
	check("the other slice is gone", 0, 2)
}

// TestLongAnnotations: a value of any length and content is quoted in part, so that lines of the log and Events stay short.
func TestLongAnnotations(t *testing.T) {
	t.Parallel()
	for _, value := range []string{strings.Repeat("x", 1<<20), strings.Repeat("\x00", 1<<20), strings.Repeat("\xff", 1<<20), strings.Repeat("٣", 1<<19), strings.Repeat("9", 1<<20) + "/s"} {
		annotations := map[string]string{annotationAlgorithm: value, annotationSlowStart: value, annotationRate: value, annotationClientRate: value, annotationOverLimit: value}
		s := reduceService(apiService(func(s *corev1.Service) { s.Annotations = annotations }), render.Instance{})
		w := reduceSlice(apiSlice("web-1", func(s *discoveryv1.EndpointSlice) { s.Annotations = map[string]string{annotationWeight: value} }))
		h := reduceService(apiService(func(s *corev1.Service) {
			s.Annotations = map[string]string{annotationAlgorithm: "maglev", annotationHashOn: value}
		}), render.Instance{})
		problems := slices.Concat(s.problems, w.problems, h.problems)
		if len(problems) != 7 {
			t.Errorf("%d problems", len(problems))
		}
		for _, p := range problems {
			if len(p.Detail) > 500 || !utf8.ValidString(p.Detail) || strings.Contains(p.Detail, "\x00") {
				t.Errorf("%s: %d bytes: %.600s", p.Field, len(p.Detail), p.Detail)
			}
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
		{map[string]string{algorithm: ""}, render.NoHashing, algorithm, `"" is neither random nor maglev; endpoints are chosen at random`},
		{map[string]string{algorithm: "maglev", hashOn: ""}, render.HashClients, hashOn, `"" is neither client nor connection; clients are hashed`},
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

// TestUnknownAnnotations: annotations with nfproxy's prefix that are misspelt, of another kind of object or of a newer nfproxy are
// reported, in the order of their names, and have no effect. Annotations of other programs are not read.
func TestUnknownAnnotations(t *testing.T) {
	t.Parallel()
	annotations := map[string]string{"example.org/weight": "7", "service.cilium.io/type": "ClusterIP"}
	for _, name := range append(knownAnnotations(serviceKind), knownAnnotations(sliceKind)...) {
		annotations[name] = "1"
	}
	for _, name := range []string{"nfproxy.io/zone", "nfproxy.io/lb-algoritm", "nfproxy.io/"} {
		annotations[name] = "maglev"
	}
	unknown := func(problems []Problem) (names []string) {
		for _, p := range problems {
			if strings.Contains(p.Detail, "no such annotation") {
				names = append(names, p.Object+" "+strings.TrimSuffix(strings.TrimPrefix(p.Field, annotationField), "]"))
			}
		}
		return names
	}
	for range 10 { // whatever the order of the map is
		service := reduceService(apiService(func(s *corev1.Service) { s.Annotations = annotations }), render.Instance{})
		want := []string{"Service default/web nfproxy.io/", "Service default/web nfproxy.io/lb-algoritm", "Service default/web nfproxy.io/weight",
			"Service default/web nfproxy.io/zone"}
		if diff := cmp.Diff(want, unknown(service.problems)); diff != "" {
			t.Errorf("Service (-want +got):\n%s", diff)
		}
		slice := reduceSlice(apiSlice("web-1", func(s *discoveryv1.EndpointSlice) { s.Annotations = annotations }))
		if got := unknown(slice.problems); len(got) != 9 || got[0] != "EndpointSlice default/web-1 nfproxy.io/" || !slices.IsSorted(got) {
			t.Errorf("EndpointSlice: %q", got)
		}
	}
}
