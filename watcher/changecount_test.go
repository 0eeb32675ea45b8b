package watcher

import (
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/render"
)

// TestChangeCount: changes of a Service and of its endpoints are counted separately. A change that leaves the joined Service as it
// was, and one of the Node, are not counted.
func TestChangeCount(t *testing.T) {
	t.Parallel()
	const service, endpoints = 1, 1
	for _, tt := range []struct {
		name                string
		service             func(*corev1.Service)
		slice               func(*discoveryv1.EndpointSlice)
		more                *discoveryv1.EndpointSlice
		services, endpoints int
	}{
		{name: "nothing"},
		{name: "label", service: func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }},
		{name: "external IP", service: func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.1"} }, services: service},
		{name: "port", service: func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }, services: service},
		{name: "port without endpoints", service: func(s *corev1.Service) { s.Spec.Ports[0].Name = "other" }, services: service, endpoints: endpoints},
		{name: "order of endpoints", slice: func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0], s.Endpoints[1] = s.Endpoints[1], s.Endpoints[0]
		}},
		{name: "endpoint removed", slice: func(s *discoveryv1.EndpointSlice) { s.Endpoints = s.Endpoints[1:] }, endpoints: endpoints},
		{name: "endpoint not ready", slice: func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = new(false) }, endpoints: endpoints},
		{name: "hints", slice: func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}}
		}, endpoints: endpoints},
		{name: "slice unlinked", slice: func(s *discoveryv1.EndpointSlice) { s.Labels = nil }, endpoints: endpoints},
		{name: "same endpoint in another slice", more: apiSlice("web-2", nil)},
		{name: "endpoint in another slice", more: apiSlice("web-2", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0] = apiEndpoint("10.1.0.9") }), endpoints: endpoints},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCatalog(slog.New(slog.DiscardHandler))
			expect := func(step string, node render.Node, services, endpoints int) {
				t.Helper()
				u, _ := c.update(node)
				if u.ServiceChanges != services || u.EndpointChanges != endpoints {
					t.Errorf("%s: %d changed Services, %d with changed endpoints; want %d, %d", step, u.ServiceChanges, u.EndpointChanges, services, endpoints)
				}
			}
			two := func(s *discoveryv1.EndpointSlice) { s.Endpoints = append(s.Endpoints, apiEndpoint("10.1.0.2")) }
			c.putService(reduceService(apiService(nil), render.Instance{}))
			c.putSlice(reduceSlice(apiSlice("web-1", two)))
			expect("added", render.Node{}, service, endpoints)
			c.putService(reduceService(apiService(tt.service), render.Instance{}))
			changed := apiSlice("web-1", two)
			if tt.slice != nil {
				tt.slice(changed)
			}
			c.putSlice(reduceSlice(changed))
			if tt.more != nil {
				c.putSlice(reduceSlice(tt.more))
			}
			expect("changed", render.Node{}, tt.services, tt.endpoints)
			expect("another Node", render.Node{Name: "n"}, 0, 0)
			left := 0
			if len(c.reportedServices()[0].reported.ports[0].Endpoints) > 0 {
				left = endpoints
			}
			c.remove(objectKey{serviceKind, "default", "web"})
			expect("removed", render.Node{Name: "n"}, service, left)
		})
	}
}
