package watcher

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/logtest"
	"nfproxy/render"
)

// TestManyProblems: of an object with a hundred thousand problems a hundred are reported, and its valid parts are used.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	s := reduceService(apiService(func(s *corev1.Service) {
		for range 100_000 {
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, "192.0.2.1")
		}
	}), render.Instance{})
	if len(s.ExternalIPs) != 1 || len(s.problems) != maxProblems+1 {
		t.Fatalf("%d external IPs and %d problems", len(s.ExternalIPs), len(s.problems))
	}
	if last := s.problems[maxProblems]; last.Detail != "further problems are not reported" || last.Object != "Service default/web" {
		t.Errorf("last problem %+v", last)
	}
}

// TestEditedProblems: the problems of an object are all logged at once, but a thousand edits of the object do not fill the log.
// The problems of another object are still logged.
func TestEditedProblems(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		c := newCatalog(log.Logger(slog.LevelInfo))
		edit := func(name string, i int) {
			c.putService(reduceService(apiService(func(s *corev1.Service) {
				s.Name = name
				for range maxProblems {
					s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, fmt.Sprint("invalid-", i))
				}
			}), render.Instance{}))
			c.putSlice(reduceSlice(apiSlice(name+"-a", func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = []discoveryv1.Endpoint{apiEndpoint(fmt.Sprint("invalid-", i))}
			})))
		}
		edit("hostile", 0)
		first := len(log.Lines())
		for i := range 1000 {
			edit("hostile", i+1)
			if i%2 == 0 { // deleting it does not help
				c.remove(objectKey{serviceKind, "default", "hostile"})
				c.remove(objectKey{sliceKind, "default", "hostile-a"})
			}
			time.Sleep(time.Second)
		}
		if n := len(log.Lines()); first < maxProblems || n > 2*(maxProblems+1+2) { // two objects, for 1,000 seconds
			t.Errorf("%d lines at first, %d after the edits", first, n)
		}
		before := len(log.Lines())
		if edit("other", 0); len(log.Lines()) != before+first {
			t.Errorf("%d lines about another object", len(log.Lines())-before)
		}
	})
}

// TestManyAddressesAndPorts: as many addresses and ports as fit into an object are reduced in less than seconds: none is
// compared with all others.
func TestManyAddressesAndPorts(t *testing.T) {
	t.Parallel()
	const n = 50_000
	s := reduceService(apiService(func(s *corev1.Service) {
		balance(s)
		s.Spec.Ports = nil
		for i := range n {
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, fmt.Sprintf("11.0.%d.%d", i>>8, i&255))
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(i + 1), NodePort: int32(n - i)})
		}
	}), render.Instance{})
	if len(s.ExternalIPs) != n || len(s.Ports) != n || len(s.problems) > 0 || s.Ports[n-1].NodePort != 1 {
		t.Errorf("%d addresses, %d ports, problems %v", len(s.ExternalIPs), len(s.Ports), s.problems)
	}
}

// TestManyPortsAndEndpoints: a Service whose ports multiply the endpoints of one EndpointSlice beyond what one Service may cost is
// not joined, which would take gigabytes. Its cluster IPs remain, and it is served again when it is smaller.
func TestManyPortsAndEndpoints(t *testing.T) {
	const ports, endpoints = 10_000, 1000
	svc := apiService(func(s *corev1.Service) {
		s.Spec.Ports, s.Spec.ExternalIPs = nil, []string{"203.0.113.1"}
		for i := range ports {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(i + 1)})
		}
	})
	eps := func(ports int) *slice {
		return reduceSlice(apiSlice("web-a", func(s *discoveryv1.EndpointSlice) {
			s.Ports, s.Endpoints = nil, nil
			for i := range ports {
				s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(fmt.Sprint("p", i)), Port: new(int32(i + 1))})
			}
			for i := range endpoints {
				s.Endpoints = append(s.Endpoints, apiEndpoint(fmt.Sprintf("10.1.%d.%d", i>>8, i&255)))
			}
		}))
	}
	c := newCatalog(slog.New(slog.DiscardHandler))
	c.putService(reduceService(svc, render.Instance{}))
	for _, step := range []struct {
		ports    int // with endpoints
		excess   render.Excess
		unserved int // addresses
		served   int // ports
	}{{ports, render.WithoutPorts, 1, 0}, {20, render.NoExcess, 0, ports}, {101, render.WithoutPorts, 1, 0}} {
		c.putSlice(eps(step.ports))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		u, _ := c.update(render.Node{Name: "n"})
		runtime.ReadMemStats(&after)
		if len(u.Services) != 1 {
			t.Fatalf("%d Services", len(u.Services))
		}
		s := u.Services[0]
		if s.Excess != step.excess || len(s.Unserved) != step.unserved || len(s.Ports) != step.served || len(s.ClusterIPs) != 2 {
			t.Errorf("%d ports with endpoints: %s; %d ports, %d cluster IPs; not served: %s", step.ports, s.Excess, len(s.Ports), len(s.ClusterIPs), s.Unserved)
		}
		if bytes := after.TotalAlloc - before.TotalAlloc; bytes > 100<<20 {
			t.Errorf("%d ports with endpoints: allocated %d MB", step.ports, bytes>>20)
		}
	}
}
