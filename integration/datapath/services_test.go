package datapath

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"nfproxy/integration/cluster"
	"nfproxy/sandbox"
)

// group is a number of equal Services to which connections are made, in turn: the place of a Service among all others matters to
// kube-proxy's iptables mode, which looks for it from the first to the last.
type group struct {
	name      string
	at        int // first address of its endpoints in the pool
	endpoints int
	services  func(of int) int
	udp       bool
	affinity  bool
	nodePort  bool
}

// Groups by name.
const (
	plain    = "plain"
	one      = "one endpoint"
	thousand = "many endpoints"
	affinity = "affinity"
	nodePort = "node port"
	datagram = "UDP"
	stream   = "stream"
)

// groups returns the groups with which a number of Services begins. If it is not the one at which all properties are varied, and
// none before was, that is only the first.
func groups(detailed bool) []group {
	usual := func(of int) int { return min(max(of/10, 1), 20) }
	few := func(of int) int { return min(max(of/10, 1), 5) }
	all := []group{{name: plain, at: 0, endpoints: 10, services: usual}}
	if detailed {
		all = append(all,
			group{name: one, at: 1000, endpoints: 1, services: usual},
			group{name: affinity, at: 2000, endpoints: 10, services: usual, affinity: true},
			group{name: nodePort, at: 3000, endpoints: 10, services: usual, nodePort: true},
			group{name: datagram, at: 4000, endpoints: 10, services: usual, udp: true},
			group{name: stream, at: 5000, endpoints: 1, services: func(int) int { return 1 }},
			group{name: thousand, at: 6000, endpoints: *many, services: few})
	}
	return all
}

// addresses returns the addresses of a Service's endpoints, which no other Service has: two connections from one port through
// different Services to one endpoint would collide.
func (g group) addresses(service int) []netip.Addr {
	if g.name == stream { // iperf3 answers from the first address of its namespace
		return []netip.Addr{serverAddr}
	}
	all := make([]netip.Addr, g.endpoints)
	base := endpointPool.Addr().As4()
	for e := range all {
		i := g.at + service*g.endpoints + e
		all[e] = netip.AddrFrom4([4]byte{base[0], base[1], base[2] + byte(i>>8), byte(i)})
	}
	return all
}

// population is what the API server has.
type population struct {
	t        testing.TB
	api      *kubernetes.Clientset
	services map[string][]*corev1.Service // of the groups
	others   int                          // Services with three endpoints that do not exist
	etcd     *http.Client
}

// newPopulation registers the node with the API server in a namespace.
func newPopulation(t testing.TB, ns *sandbox.Namespace, config *rest.Config) *population {
	t.Helper()
	config.QPS = -1
	p := &population{t: t, services: make(map[string][]*corev1.Service), etcd: newEtcdClient(ns)}
	t.Cleanup(p.etcd.CloseIdleConnections)
	var err error
	p.api, err = kubernetes.NewForConfig(config)
	check(t, err)
	_, err = p.api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: cluster.NodeName},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddr.String()}}},
	}, metav1.CreateOptions{})
	check(t, err)
	return p
}

// grow creates Services until there are n, those of the groups first.
func (p *population) grow(n int, detailed bool) {
	p.t.Helper()
	total := 0
	for _, g := range groups(detailed) {
		for s := len(p.services[g.name]); s < g.services(n); s++ {
			created, err := p.create(p.t.Context(), g.service(s), g.addresses(s), cluster.NodeName)
			check(p.t, err)
			p.services[g.name] = append(p.services[g.name], created)
		}
	}
	for _, created := range p.services {
		total += len(created)
	}
	if total > n {
		p.t.Fatalf("the groups have %d Services, more than %d", total, n)
	}
	if others := n - total; others > p.others {
		p.storeOthers(p.others, others)
		p.others = others
	}
}

// service returns a Service of the group.
func (g group) service(number int) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", strings.ReplaceAll(strings.ToLower(g.name), " ", "-"), number)}}
	s.Spec.ClusterIP = netip.AddrFrom4([4]byte{10, 96, byte(8 + g.at/1000), byte(1 + number)}).String()
	s.Spec.Ports = []corev1.ServicePort{{Name: "p", Port: 80, Protocol: corev1.ProtocolTCP}}
	if g.udp {
		s.Spec.Ports[0].Protocol = corev1.ProtocolUDP
	}
	if g.name == stream {
		s.Spec.Ports = []corev1.ServicePort{{Name: "p", Port: streamPort, Protocol: corev1.ProtocolTCP}, {Name: "u", Port: streamPort, Protocol: corev1.ProtocolUDP}}
	}
	if g.affinity {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	if g.nodePort {
		s.Spec.Type = corev1.ServiceTypeNodePort
	}
	return s
}

// create creates a Service and its EndpointSlice.
func (p *population) create(ctx context.Context, s *corev1.Service, endpoints []netip.Addr, node string) (*corev1.Service, error) {
	created, err := p.api.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	_, err = p.api.DiscoveryV1().EndpointSlices("default").Create(ctx, endpointSlice(s, endpoints, node), metav1.CreateOptions{})
	return created, err
}

// endpointSlice returns the EndpointSlice of a Service.
func endpointSlice(s *corev1.Service, endpoints []netip.Addr, node string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: s.Name, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, p := range s.Spec.Ports {
		port := int32(serverPort)
		if p.Port == streamPort {
			port = streamPort
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &port, Protocol: &p.Protocol})
	}
	for _, a := range endpoints {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, NodeName: &node})
	}
	return slice
}

// frontends returns the cluster IPs of a group, or the node's ports if it has any.
func (p *population) frontends(g group) []netip.AddrPort {
	var all []netip.AddrPort
	for _, s := range p.services[g.name] {
		port := s.Spec.Ports[0]
		if g.nodePort {
			all = append(all, netip.AddrPortFrom(nodeAddr, uint16(port.NodePort)))
		} else {
			all = append(all, netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIP), uint16(port.Port)))
		}
	}
	return all
}

// direct returns the addresses of a group's endpoints.
func (p *population) direct(g group) []netip.AddrPort {
	var all []netip.AddrPort
	for s := range p.services[g.name] {
		for _, a := range g.addresses(s) {
			all = append(all, netip.AddrPortFrom(a, serverPort))
		}
	}
	return all
}
