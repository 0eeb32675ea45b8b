package metrics

import (
	"testing"
	"time"

	"nfproxy/render"
)

// TestServiceFeatures: each Service counts while it uses a feature, once.
func TestServiceFeatures(t *testing.T) {
	m := New("v1.2.3")
	service := func(name string, h render.Hashing, slow time.Duration, endpoints ...render.Endpoint) render.Service {
		port := render.Port{Endpoints: endpoints}
		return render.Service{ServiceName: render.ServiceName{Namespace: "ns", Name: name}, Hashing: h, SlowStart: slow, Ports: []render.Port{port, port}}
	}
	limited := service("e", render.NoHashing, 0)
	limited.Limits.Rate.Packets = 1
	one, two, drained := render.Endpoint{Weight: 1}, render.Endpoint{Weight: 2}, render.Endpoint{Drained: true}
	for step, s := range []struct {
		update render.Update
		want   map[string]float64
	}{
		{render.Update{}, map[string]float64{}},
		{render.Update{Services: []render.Service{service("a", render.NoHashing, 0, one, render.Endpoint{}), service("b", render.HashClients, time.Minute, two, two),
			service("c", render.HashConnections, 0), service("d", render.NoHashing, 0, one, drained), limited}},
			map[string]float64{"limits": 1, "maglev_client": 1, "maglev_connection": 1, "slow_start": 1, "weights": 2}},
		{render.Update{Services: []render.Service{service("a", render.HashClients, 0, two), service("b", render.HashClients, 0, one)}},
			map[string]float64{"limits": 1, "maglev_client": 2, "maglev_connection": 1, "weights": 2}},
		{render.Update{Removed: []render.ServiceName{{Namespace: "ns", Name: "a"}, {Namespace: "ns", Name: "c"}, {Namespace: "ns", Name: "x"}, {Namespace: "ns", Name: "e"}}},
			map[string]float64{"maglev_client": 1, "weights": 1}},
	} {
		m.Updated(s.update)
		samples := scrape(t, m).samples
		for _, f := range []string{"limits", "maglev_client", "maglev_connection", "slow_start", "weights"} {
			if got, ok := samples[`nfproxy_service_features{feature="`+f+`"}`]; !ok || got != s.want[f] {
				t.Errorf("step %d: %s is %v, %v, want %v", step, f, got, ok, s.want[f])
			}
		}
	}
}
