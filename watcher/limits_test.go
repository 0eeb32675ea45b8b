package watcher

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestManyProblems: of an object with a hundred thousand problems a hundred are reported, and its valid parts are used.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	s := reduceService(apiService(func(s *corev1.Service) {
		for range 100_000 {
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, "192.0.2.1")
		}
	}))
	if len(s.externalIPs) != 1 || len(s.problems) != maxProblems+1 {
		t.Fatalf("%d external IPs and %d problems", len(s.externalIPs), len(s.problems))
	}
	if last := s.problems[maxProblems]; last.Detail != "further problems are not reported" || last.Object != "Service default/web" {
		t.Errorf("last problem %+v", last)
	}
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
	}))
	if len(s.externalIPs) != n || len(s.ports) != n || len(s.problems) > 0 || s.ports[n-1].nodePort != 1 {
		t.Errorf("%d addresses, %d ports, problems %v", len(s.externalIPs), len(s.ports), s.problems)
	}
}
