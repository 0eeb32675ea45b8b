package watcher

import (
	"fmt"
	"io"
	"log/slog"
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

// newChangingService returns a programmed Service.
func newChangingService(endpoints int, protocol corev1.Protocol) *changingService {
	s := &changingService{catalog: newCatalog(slog.New(slog.NewTextHandler(io.Discard, nil))), metrics: metrics.New("test"),
		flows: render.NewFlowIndex(), ruleset: render.NewRuleset(render.Node{})}
	service := apiService(func(api *corev1.Service) {
		api.Spec.ClusterIP, api.Spec.ClusterIPs = "10.96.0.1", []string{"10.96.0.1"}
		api.Spec.Ports = []corev1.ServicePort{{Name: "http", Protocol: protocol, Port: 80}}
	})
	s.catalog.put(object{service: reduceService(service)})
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
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		for _, n := range []int{10, 500, 5_000} {
			b.Run(fmt.Sprintf("protocol=%s/endpoints=%d", protocol, n), func(b *testing.B) {
				s := newChangingService(n, protocol)
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
