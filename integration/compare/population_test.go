package compare

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"nfproxy/integration/cluster"
)

const (
	namespace   = "default"
	servicePort = 80
	targetPort  = 8080
	sliceSize   = 100 // endpoints, as the controller makes slices

	// mostEndpoints is how many addresses there are for endpoints, without those that a rolling update uses.
	mostEndpoints = 1 << 21
	creators      = 16 // requests at a time
)

// population is the Services and EndpointSlices in the API. All endpoints but those of the last Service are addresses at which no pod
// exists.
type population struct {
	*kubernetes.Clientset
	now   size
	last  *service // its endpoints are pods; its name is the last one in a list
	spent int      // addresses that rolling updates have used
}

// service is a Service with one EndpointSlice that a trial changes.
type service struct {
	population *population
	frontend   string // cluster IP and port
	slice      *discoveryv1.EndpointSlice
}

func newPopulation(t *testing.T, c *cluster.Cluster) *population {
	t.Helper()
	config := c.AdminConfig()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &population{Clientset: client}
	if p.last, err = p.add(t.Context(), "zz-last", backendAddrs[0]); err != nil {
		t.Fatal(err)
	}
	return p
}

// resize creates and deletes objects until there are as many as a size says, beside the last Service.
func (p *population) resize(ctx context.Context, to size) error {
	from := 0
	if p.now.endpoints == to.endpoints && p.now.services <= to.services {
		from = p.now.services
	} else if err := inParallel(p.now.services, func(i int) error { return p.remove(ctx, numberedName(i)) }); err != nil {
		return err
	}
	p.now = to
	return inParallel(to.services-from, func(i int) error { return p.create(ctx, from+i) })
}

func numberedName(i int) string { return fmt.Sprintf("service-%d", i) }

// inParallel calls f for the numbers below n.
func inParallel(n int, f func(i int) error) error {
	next := make(chan int)
	var running sync.WaitGroup
	failed := make(chan error, n)
	for range min(creators, n) {
		running.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	running.Wait()
	close(failed)
	return <-failed
}

// create creates a Service with endpoints of the population's size.
func (p *population) create(ctx context.Context, i int) error {
	name := numberedName(i)
	if _, err := p.createService(ctx, name); err != nil {
		return err
	}
	for first := 0; first < p.now.endpoints; first += sliceSize {
		slice := newSlice(name, fmt.Sprintf("%s-%d", name, first/sliceSize))
		for e := first; e < min(first+sliceSize, p.now.endpoints); e++ {
			slice.Endpoints = append(slice.Endpoints, newEndpoint(missingAddr(i*p.now.endpoints+e), "node-c"))
		}
		if _, err := p.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// add creates a Service with one EndpointSlice, whose endpoints are pods of the node.
func (p *population) add(ctx context.Context, name string, addrs ...string) (*service, error) {
	created, err := p.createService(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &service{population: p, frontend: fmt.Sprintf("%s:%d", created.Spec.ClusterIP, servicePort), slice: newSlice(name, name)}
	for _, addr := range addrs {
		s.slice.Endpoints = append(s.slice.Endpoints, newEndpoint(addr, nodeName))
	}
	s.slice, err = p.DiscoveryV1().EndpointSlices(namespace).Create(ctx, s.slice, metav1.CreateOptions{})
	return s, err
}

func (p *population) createService(ctx context.Context, name string) (*corev1.Service, error) {
	return p.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: servicePort}}},
	}, metav1.CreateOptions{})
}

// remove deletes a Service and its EndpointSlices.
func (p *population) remove(ctx context.Context, name string) error {
	err := p.CoreV1().Services(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return p.DiscoveryV1().EndpointSlices(namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
}

// serve makes the pods with these addresses the endpoints of the Service.
func (s *service) serve(ctx context.Context, addrs ...string) error {
	s.slice.Endpoints = nil
	for _, addr := range addrs {
		s.slice.Endpoints = append(s.slice.Endpoints, newEndpoint(addr, nodeName))
	}
	updated, err := s.population.DiscoveryV1().EndpointSlices(namespace).Update(ctx, s.slice, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	s.slice = updated
	return nil
}

// slicesOf returns the EndpointSlices of a Service.
func (p *population) slicesOf(ctx context.Context, name string) ([]discoveryv1.EndpointSlice, error) {
	list, err := p.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, errors.New("a Service has no EndpointSlices")
	}
	return list.Items, nil
}

func newSlice(service, name string) *discoveryv1.EndpointSlice {
	port, portName := int32(targetPort), "http"
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
}

func newEndpoint(addr, node string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &node}
}

// missingAddr returns the address number i of those at which no pod exists, from 10.128.0.0 on.
func missingAddr(i int) string {
	return netip.AddrFrom4([4]byte{10, byte(128 + i>>16), byte(i >> 8), byte(i)}).String()
}
