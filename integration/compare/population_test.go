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
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
)

const (
	namespace   = "default"
	servicePort = 80
	targetPort  = 8080
	sliceSize   = 100 // endpoints, as the controller makes slices

	// mostEndpoints is how many addresses there are for endpoints, without those that a rolling update uses.
	mostEndpoints = 1 << 21
	creators      = 16 // requests at a time

	// lastClusterIP is one of the addresses that the API server allocates only on demand.
	lastClusterIP = "10.96.0.200"
	lastName      = "zz-last"
)

// population is the Services and EndpointSlices in the API. All endpoints but those of the last Service are addresses at which no pod
// exists.
type population struct {
	*kubernetes.Clientset
	now   size
	last  *service // its endpoints are pods; its name is the last one in a list
	spent int      // addresses that rolling updates have used
	// model is the last Service and its EndpointSlice as the API server has stored them first.
	model struct {
		service *corev1.Service
		slice   *discoveryv1.EndpointSlice
	}
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
	if p.last, err = p.add(t.Context(), lastName, lastClusterIP, backendAddrs[0]); err != nil {
		t.Fatal(err)
	}
	p.model.slice = p.last.slice.DeepCopy()
	if p.model.service, err = p.CoreV1().Services(namespace).Get(t.Context(), lastName, metav1.GetOptions{}); err != nil {
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
	return p.store(ctx, from, to)
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

// newObjects returns Service number i with endpoints of a size, as the API server stores it: like the last Service, with other names and
// addresses.
func (p *population) newObjects(i int, of size) []controlplane.Stored {
	name, addr := numberedName(i), clusterIP(i)
	service := p.model.service.DeepCopy()
	service.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	service.Name, service.UID, service.ResourceVersion = name, uuid.NewUUID(), ""
	service.Spec.ClusterIP, service.Spec.ClusterIPs = addr, []string{addr}
	all := []controlplane.Stored{{Key: "services/specs/" + namespace + "/" + name, Object: service}}
	for first := 0; first < of.endpoints; first += sliceSize {
		slice := newSlice(name, fmt.Sprintf("%s-%d", name, first/sliceSize))
		slice.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
		slice.UID, slice.CreationTimestamp, slice.Generation = uuid.NewUUID(), metav1.Now(), 1
		slice.ManagedFields = p.model.slice.ManagedFields
		for e := first; e < min(first+sliceSize, of.endpoints); e++ {
			slice.Endpoints = append(slice.Endpoints, newEndpoint(missingAddr(i*of.endpoints+e), "node-c"))
		}
		all = append(all, controlplane.Stored{Key: "endpointslices/" + namespace + "/" + slice.Name, Object: slice})
	}
	return all
}

// clusterIP returns the cluster IP of Service number i. The API server allocates others by itself.
func clusterIP(i int) string {
	return netip.AddrFrom4([4]byte{10, byte(100 + i>>16), byte(i >> 8), byte(i)}).String()
}

// add creates a Service with a cluster IP, or with one that the API server chooses, and with one EndpointSlice, whose endpoints are pods
// of the node.
func (p *population) add(ctx context.Context, name, addr string, pods ...string) (*service, error) {
	created, err := p.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: addr, Ports: []corev1.ServicePort{{Name: "http", Port: servicePort}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	s := &service{population: p, frontend: fmt.Sprintf("%s:%d", created.Spec.ClusterIP, servicePort), slice: newSlice(name, name)}
	for _, pod := range pods {
		s.slice.Endpoints = append(s.slice.Endpoints, newEndpoint(pod, nodeName))
	}
	s.slice, err = p.DiscoveryV1().EndpointSlices(namespace).Create(ctx, s.slice, metav1.CreateOptions{})
	return s, err
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
	return s.population.update(ctx, s.slice)
}

// update stores a slice, whatever is stored now.
func (p *population) update(ctx context.Context, slice *discoveryv1.EndpointSlice) error {
	slice.ResourceVersion = ""
	updated, err := p.DiscoveryV1().EndpointSlices(namespace).Update(ctx, slice, metav1.UpdateOptions{})
	if err == nil {
		*slice = *updated
	}
	return err
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
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
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
