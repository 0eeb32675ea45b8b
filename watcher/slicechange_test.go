package watcher

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/agent/metrics"
	"nfproxy/nft"
	"nfproxy/render"
)

// sliceSize is the number of endpoints in an EndpointSlice of changingService: the default of kube-controller-manager.
const sliceSize = 100

// changingService is a Service with a number of endpoints in slices of sliceSize, and what follows its changes: the catalog, the
// observers that look at every Service, and the Ruleset.
type changingService struct {
	catalog *catalog
	metrics *metrics.Recorder
	flows   *render.FlowIndex
	ruleset *render.Ruleset
	// slices are the last EndpointSlice before and after the change of its first endpoint.
	slices  [2]*discoveryv1.EndpointSlice
	changes int
}

// changingKinds are the kinds of Services: those whose endpoints are followed by other parts too.
var changingKinds = []struct {
	name     string
	protocol corev1.Protocol
	affinity corev1.ServiceAffinity
	// allocations is what the replacement of an endpoint may take, with 15 % to spare.
	allocations int
}{{"TCP", corev1.ProtocolTCP, corev1.ServiceAffinityNone, 190}, {"UDP", corev1.ProtocolUDP, corev1.ServiceAffinityNone, 205},
	{"affinity", corev1.ProtocolTCP, corev1.ServiceAffinityClientIP, 385}}

// newChangingService returns a programmed Service.
func newChangingService(endpoints int, protocol corev1.Protocol, affinity corev1.ServiceAffinity) *changingService {
	s := &changingService{catalog: newCatalog(slog.New(slog.NewTextHandler(io.Discard, nil))), metrics: metrics.New("test"),
		flows: render.NewFlowIndex(), ruleset: render.NewRuleset(render.Node{})}
	service := apiService(func(api *corev1.Service) {
		api.Spec.ClusterIP, api.Spec.ClusterIPs = "10.96.0.1", []string{"10.96.0.1"}
		api.Spec.Ports = []corev1.ServicePort{{Name: "http", Protocol: protocol, Port: 80}}
		api.Spec.SessionAffinity = affinity
	})
	s.catalog.put(object{service: reduceService(service, render.Instance{})})
	for first := 0; first < endpoints; first += sliceSize {
		s.slices[0] = largeSlice(first, min(sliceSize, endpoints-first), protocol)
		s.catalog.put(object{slice: reduceSlice(s.slices[0])})
	}
	s.slices[1] = s.slices[0].DeepCopy()
	s.slices[1].Endpoints[0].Addresses = []string{"10.255.0.1"}
	s.ruleset.Observe(nil)
	s.follow()
	return s
}

// largeSlice returns an EndpointSlice with a number of endpoints, the first of which has this number in the Service.
func largeSlice(first, endpoints int, protocol corev1.Protocol) *discoveryv1.EndpointSlice {
	name, port, node := "http", int32(8080), "node-b"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("web-%d", first),
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	for i := first; i < first+endpoints; i++ {
		// Neighbours in address are not in the same slice.
		addr := fmt.Sprintf("10.%d.%d.1", i%100, i/100)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &node})
	}
	return s
}

// change replaces the endpoint and returns the changes of the tables.
func (s *changingService) change() []nft.Change {
	s.changes++
	s.catalog.put(object{slice: reduceSlice(s.slices[s.changes%2])})
	return s.follow()
}

// follow does what the daemon does with an Update, but for the system calls.
func (s *changingService) follow() []nft.Change {
	update, _ := s.catalog.update(render.Node{})
	s.ruleset.Update(update)
	s.flows.Take(update, s.ruleset.Owner)
	s.metrics.Updated(update)
	changes := s.ruleset.Plan()
	s.ruleset.Accept()
	s.flows.Programmed(changes)
	s.flows.Next()
	return changes
}

// BenchmarkSliceChange measures what one changed endpoint costs in a Service with many, from the decoded EndpointSlice to the
// changes of the tables.
func BenchmarkSliceChange(b *testing.B) {
	for _, kind := range changingKinds {
		for _, n := range []int{10, 500, 5_000} {
			b.Run(fmt.Sprintf("kind=%s/endpoints=%d", kind.name, n), func(b *testing.B) {
				s := newChangingService(n, kind.protocol, kind.affinity)
				b.ReportAllocs()
				for b.Loop() {
					if n := nft.ElementOperations(s.change()); n != 2 {
						b.Fatalf("one endpoint is replaced, and the changes have %d element operations", n)
					}
				}
			})
		}
	}
}

// TestSliceChangeCost: what one changed endpoint of a slice costs is bounded, and grows with the Service only by the copies of its
// list of endpoints. The numbers do not depend on the machine.
func TestSliceChangeCost(t *testing.T) {
	for _, kind := range changingKinds {
		small := sliceChangeCost(t, newChangingService(500, kind.protocol, kind.affinity))
		large := sliceChangeCost(t, newChangingService(5_000, kind.protocol, kind.affinity))
		t.Logf("%s: 500 endpoints %+v, 5,000 endpoints %+v", kind.name, small, large)
		const more, bytesPerEndpoint = 5, 95
		if small.allocations > kind.allocations || large.allocations > small.allocations+more {
			t.Errorf("%s: %d allocations with 500 endpoints, %d with 5,000; want at most %d, and %d more",
				kind.name, small.allocations, large.allocations, kind.allocations, more)
		}
		if each := (large.bytes - small.bytes) / (5_000 - 500); each > bytesPerEndpoint {
			t.Errorf("%s: %d bytes for each endpoint that has not changed, want at most %d", kind.name, each, bytesPerEndpoint)
		}
	}
}

// cost is what something costs on average.
type cost struct {
	allocations, bytes int
}

// sliceChangeCost measures the replacement of one endpoint. Of several measurements the least counts: other goroutines may allocate
// meanwhile.
func sliceChangeCost(t *testing.T, s *changingService) (least cost) {
	const tries, changes = 5, 20
	for range changes {
		s.change()
	}
	for try := range tries {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range changes {
			if n := nft.ElementOperations(s.change()); n != 2 {
				t.Fatalf("one endpoint is replaced, and the changes have %d element operations", n)
			}
		}
		runtime.ReadMemStats(&after)
		c := cost{int(after.Mallocs-before.Mallocs) / changes, int(after.TotalAlloc-before.TotalAlloc) / changes}
		if try == 0 || c.allocations < least.allocations {
			least = c
		}
	}
	return least
}

// TestMemoryPerService: what the daemon keeps of a Service with three endpoints.
func TestMemoryPerService(t *testing.T) {
	const services, most = 2_000, 2_340
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	s := newChangingService(1, corev1.ProtocolTCP, corev1.ServiceAffinityNone)
	before := heap()
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		s.catalog.put(object{service: reduceService(apiService(func(api *corev1.Service) {
			api.Name, api.Spec.ClusterIPs = name, []string{fmt.Sprintf("10.96.%d.%d", i/250, 1+i%250)}
		}), render.Instance{})})
		s.catalog.put(object{slice: reduceSlice(apiSlice(name+"-abcde", func(api *discoveryv1.EndpointSlice) {
			api.Labels[discoveryv1.LabelServiceName], api.Endpoints = name, nil
			for e := range 3 {
				endpoint := apiEndpoint(fmt.Sprintf("10.%d.%d.%d", e, i/250, 1+i%250))
				endpoint.NodeName = new(fmt.Sprint("node-", e))
				api.Endpoints = append(api.Endpoints, endpoint)
			}
		}))})
	}
	s.follow()
	each := (heap() - before) / services
	t.Logf("%d bytes for each Service", each)
	if each > most {
		t.Errorf("%d bytes for each Service, want at most %d", each, most)
	}
	runtime.KeepAlive(s)
}
