package metrics

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestChangeCount: changes of a Service and of its endpoints are counted separately; a different order is no change.
func TestChangeCount(t *testing.T) {
	const service, endpoints = 1, 1
	for _, c := range []struct {
		name                string
		change              func(*render.Service)
		services, endpoints int
	}{
		{"nothing", func(*render.Service) {}, 0, 0},
		{"order of endpoints", func(s *render.Service) { slices.Reverse(s.Ports[0].Endpoints) }, 0, 0},
		{"order of ports", func(s *render.Service) { slices.Reverse(s.Ports) }, 0, 0},
		{"endpoint added", func(s *render.Service) {
			s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, render.Endpoint{AddrPort: netip.MustParseAddrPort("10.244.9.9:8080")})
		}, 0, endpoints},
		{"all endpoints removed", func(s *render.Service) { s.Ports[0].Endpoints = nil }, 0, endpoints},
		{"endpoint terminates", func(s *render.Service) { s.Ports[0].Endpoints[0].Terminating = true }, 0, endpoints},
		{"endpoint not ready", func(s *render.Service) { s.Ports[0].Endpoints[0].Ready = false }, 0, endpoints},
		{"endpoint not serving", func(s *render.Service) { s.Ports[0].Endpoints[0].Serving = false }, 0, endpoints},
		{"endpoint's node", func(s *render.Service) { s.Ports[0].Endpoints[0].Node = "node-c" }, 0, endpoints},
		{"hints", func(s *render.Service) { s.Ports[0].Endpoints[0].Hints = &render.Hints{Zones: []string{"a"}} }, 0, endpoints},
		{"created", func(s *render.Service) { s.Created = time.Unix(1, 0) }, service, 0},
		{"cluster IP", func(s *render.Service) { s.ClusterIPs = nil }, service, 0},
		{"external IP", func(s *render.Service) { s.ExternalIPs = s.ClusterIPs }, service, 0},
		{"load balancer", func(s *render.Service) { s.LoadBalancerIPs = s.ClusterIPs }, service, 0},
		{"source ranges", func(s *render.Service) { s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, service, 0},
		{"affinity", func(s *render.Service) { s.Affinity = time.Hour }, service, 0},
		{"internal policy", func(s *render.Service) { s.InternalLocal = false }, service, 0},
		{"external policy", func(s *render.Service) { s.ExternalLocal = true }, service, 0},
		{"health check node port", func(s *render.Service) { s.HealthCheckNodePort = 30000 }, service, 0},
		{"node port", func(s *render.Service) { s.Ports[1].NodePort = 30001 }, service, 0},
		{"protocol", func(s *render.Service) { s.Ports[1].Protocol = nft.UDP }, service, 0},
		{"port removed with its endpoints", func(s *render.Service) { s.Ports = s.Ports[1:] }, service, endpoints},
	} {
		t.Run(c.name, func(t *testing.T) {
			newService := func() render.Service {
				s := localService("web", "node-a", "node-b")
				s.Ports = append(s.Ports, render.Port{Name: "https", Protocol: nft.TCP, Port: 443})
				return s
			}
			counter := newChangeCounter()
			wantChanges(t, &counter, render.Update{Services: []render.Service{newService()}}, service, endpoints)
			s := newService()
			c.change(&s)
			wantChanges(t, &counter, render.Update{Services: []render.Service{s}}, c.services, c.endpoints)
			removed := render.Update{Removed: []render.ServiceName{s.ServiceName}}
			removedEndpoints := 0
			if slices.ContainsFunc(s.Ports, func(p render.Port) bool { return len(p.Endpoints) > 0 }) {
				removedEndpoints = endpoints
			}
			wantChanges(t, &counter, removed, service, removedEndpoints)
			wantChanges(t, &counter, removed, 0, 0)
		})
	}
}

func wantChanges(t *testing.T, c *changeCounter, u render.Update, services, endpoints int) {
	t.Helper()
	if s, e := c.update(u); s != services || e != endpoints {
		t.Errorf("%d changed Services, %d changed endpoints; want %d, %d", s, e, services, endpoints)
	}
}
