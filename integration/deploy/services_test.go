package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
	"nfproxy/sandbox"
)

// testServices are Services of several kinds, the pods that serve them, and the clients that connect to them.
type testServices struct {
	*deployment
	backends []*sandbox.Pod
	client   *sandbox.Pod      // inside the pod CIDRs
	outside  *sandbox.Pod      // outside the pod CIDRs
	ip       map[string]string // cluster IPs by Service
	ip6      string            // the IPv6 cluster IP of Service web
}

const (
	nodePort, nodePortUDP, nodePortGreeting = "192.0.2.10:30081", "192.0.2.10:30053", "192.0.2.10:30080"
	webBalancer, localBalancer, rangeIP     = "203.0.113.1", "203.0.113.2", "203.0.113.3"
	localHealth                             = 30099
	outsideAddr, nodeAddr                   = "198.51.100.9", "192.0.2.10"
)

// newTestServices creates the Services, four pods that serve them and the clients. Service web has the first two pods as endpoints.
func newTestServices(c *deployment) *testServices {
	c.T.Helper()
	w := &testServices{deployment: c, ip: map[string]string{}}
	for i := range 4 {
		addr4, addr6 := backendAddr(i), fmt.Sprintf("fd00:10:244:7::%d", i+1)
		pod := c.AddPod("default", fmt.Sprint("backend-", i), nil, addr4, addr6)
		cluster.ServeGreeting(c.T, pod, addr4+":8080", addr4)
		for _, addr := range []string{addr4, addr6} {
			serveTCP(c.T, pod, net.JoinHostPort(addr, "8081"))
		}
		serveUDP(c.T, pod, addr4+":5353")
		w.backends = append(w.backends, pod)
	}
	w.client = c.AddPod("default", "client", nil, "10.244.1.99", "fd00:10:244:1::99")
	w.outside = c.AddPod("default", "outside", nil, outsideAddr)

	dual := corev1.IPFamilyPolicyRequireDualStack
	talk := corev1.ServicePort{Name: "talk", Port: 81}
	nodeTalk := talk
	nodeTalk.NodePort = 30081
	web := w.service("web", webBalancer, corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilyPolicy: &dual,
		Ports: []corev1.ServicePort{{Name: "greet", Port: 80, NodePort: 30080}, nodeTalk}})
	w.ip6 = web.Spec.ClusterIPs[1]
	w.service("dns", "", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort,
		Ports: []corev1.ServicePort{{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 53, NodePort: 30053}}})
	w.service("sticky", "", corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP, Ports: []corev1.ServicePort{talk}})
	w.service("self", "", corev1.ServiceSpec{Ports: []corev1.ServicePort{talk}})
	w.service("empty", "", corev1.ServiceSpec{Ports: []corev1.ServicePort{talk}})
	w.service("local", localBalancer, corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, HealthCheckNodePort: localHealth,
		ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, Ports: []corev1.ServicePort{talk}})
	w.service("ranges", rangeIP, corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer,
		LoadBalancerSourceRanges: []string{"198.51.100.0/24"}, Ports: []corev1.ServicePort{talk}})
	w.serve("web", 0, 1)
	w.serve("dns", 0, 1)
	w.serve("sticky", 0, 1, 2, 3)
	w.serve("self", 0)
	w.serve("local", 0, 1)
	w.serve("ranges", 0, 1)
	return w
}

func backendAddr(i int) string { return fmt.Sprintf("10.244.7.%d", i+1) }

// service creates a Service and, if ingress is not empty, sets the address of its load balancer.
func (w *testServices) service(name, ingress string, spec corev1.ServiceSpec) *corev1.Service {
	w.T.Helper()
	services := w.CoreV1().Services("default")
	s, err := services.Create(w.T.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	if err == nil && ingress != "" {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ingress}}
		s, err = services.UpdateStatus(w.T.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		w.T.Fatal(err)
	}
	w.ip[name] = s.Spec.ClusterIP
	return s
}

// serve makes the pods with these indexes the endpoints of a Service, in both families.
func (w *testServices) serve(service string, backends ...int) {
	w.T.Helper()
	slices := w.DiscoveryV1().EndpointSlices("default")
	for family, kind := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := &discoveryv1.EndpointSlice{AddressType: kind, ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(service, "-", family),
			Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
		for _, p := range []struct {
			name     string
			protocol corev1.Protocol
			port     int32
		}{{"greet", corev1.ProtocolTCP, 8080}, {"talk", corev1.ProtocolTCP, 8081}, {"udp", corev1.ProtocolUDP, 5353}} {
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.name, Protocol: &p.protocol, Port: &p.port})
		}
		node := cluster.NodeName
		for _, i := range backends {
			slice.Endpoints = append(slice.Endpoints,
				discoveryv1.Endpoint{Addresses: []string{w.backends[i].Addrs[family].String()}, NodeName: &node})
		}
		_, err := slices.Update(w.T.Context(), slice, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = slices.Create(w.T.Context(), slice, metav1.CreateOptions{})
		}
		if err != nil {
			w.T.Fatal(err)
		}
	}
}

// access describes how a client reaches a Service and the source address that the endpoint must see, unless it is empty.
type access struct {
	name, network string
	from          *sandbox.Namespace
	to, source    string
}

// accesses returns an access for each kind of frontend and of client.
func (w *testServices) accesses() []access {
	at := func(service, port string) string { return net.JoinHostPort(w.ip[service], port) }
	client, outside, node := w.client.Namespace, w.outside.Namespace, w.Network.Node()
	return []access{
		{"cluster IP, from a pod", "tcp", client, at("web", "81"), "10.244.1.99"},
		{"cluster IP, IPv6", "tcp", client, net.JoinHostPort(w.ip6, "81"), "fd00:10:244:1::99"},
		{"cluster IP, from the node", "tcp", node, at("web", "81"), nodeAddr},
		{"cluster IP, from outside", "tcp", outside, at("web", "81"), nodeAddr},
		{"cluster IP, an endpoint connects to itself", "tcp", w.backends[0].Namespace, at("self", "81"), nodeAddr},
		{"cluster IP, UDP", "udp", client, at("dns", "53"), "10.244.1.99"},
		{"node port", "tcp", outside, nodePort, nodeAddr},
		{"node port, UDP", "udp", outside, nodePortUDP, nodeAddr},
		{"load balancer", "tcp", outside, webBalancer + ":81", nodeAddr},
		{"load balancer, policy Local", "tcp", outside, localBalancer + ":81", outsideAddr},
		{"load balancer, source inside the source ranges", "tcp", outside, rangeIP + ":81", nodeAddr},
		{"session affinity", "tcp", client, at("sticky", "81"), "10.244.1.99"},
	}
}

// checkAll makes every access and fails the test if one fails, if session affinity does not hold or if a Service without
// endpoints does not refuse connections.
func (w *testServices) checkAll(when string) {
	w.T.Helper()
	for _, way := range w.accesses() {
		c, err := connect(w.T, way)
		if err == nil {
			_, err = c.ask()
			c.Close()
		}
		if err != nil {
			w.T.Errorf("%s: %s: %v", when, way.name, err)
		}
	}
	sticky := access{"session affinity", "tcp", w.client.Namespace, w.ip["sticky"] + ":81", "10.244.1.99"}
	if answered := w.answers(sticky, 5); len(answered) != 1 {
		w.T.Errorf("%s: with session affinity one client reaches %v, want one endpoint", when, answered)
	}
	refused := access{"no endpoint", "tcp", w.client.Namespace, w.ip["empty"] + ":81", ""}
	if _, err := connect(w.T, refused); !errors.Is(err, syscall.ECONNREFUSED) {
		w.T.Errorf("%s: connection to a Service without endpoints: %v, want %v", when, err, syscall.ECONNREFUSED)
	}
}

// answers makes n connections and returns their number by the endpoint that answered.
func (w *testServices) answers(way access, n int) map[string]int {
	w.T.Helper()
	answered := map[string]int{}
	for range n {
		c, err := connect(w.T, way)
		if err != nil {
			w.T.Fatalf("%s: %v", way.name, err)
		}
		answer, err := c.ask()
		if err != nil {
			w.T.Fatalf("%s: %v", way.name, err)
		}
		c.Close()
		answered[answer]++
	}
	return answered
}

// connection is an open connection to a Service.
type connection struct {
	net.Conn
	access
	in     *bufio.Reader
	answer string // the endpoint that answered first; all later answers must come from it
}

// connect opens the connection of an access.
func connect(t testing.TB, w access) (*connection, error) {
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Timeout)
	defer cancel()
	conn, err := w.from.Dial(ctx, w.network, "", w.to)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, access: w, in: bufio.NewReader(conn)}, nil
}

// ask sends a question and returns the endpoint that answers. It returns an error if another endpoint answered before, or if
// the endpoint sees another source than it must.
func (c *connection) ask() (string, error) {
	_ = c.SetDeadline(time.Now().Add(cluster.Timeout))
	if _, err := c.Write([]byte("who?\n")); err != nil {
		return "", err
	}
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	answer, source, _ := strings.Cut(strings.TrimSpace(line), " sees ")
	if c.source != "" && source != c.source {
		return answer, fmt.Errorf("endpoint %s sees source %s, want %s", answer, source, c.source)
	}
	if c.answer != "" && answer != c.answer {
		return answer, fmt.Errorf("endpoint %s answers, want %s", answer, c.answer)
	}
	c.answer = answer
	return answer, nil
}

// answerText returns the answer of an endpoint: its own address and the source address that it sees.
func answerText(local, remote net.Addr) []byte {
	return fmt.Appendf(nil, "%s sees %s\n", addrOf(local), addrOf(remote))
}

func addrOf(a net.Addr) netip.Addr { return netip.MustParseAddrPort(a.String()).Addr().Unmap() }

// serveTCP makes a pod answer every line of every TCP connection at an address.
func serveTCP(t testing.TB, pod *sandbox.Pod, at string) {
	t.Helper()
	cluster.ServeTCP(t, pod.Namespace, at, func(conn net.Conn) {
		for in := bufio.NewScanner(conn); in.Scan(); {
			_, _ = conn.Write(answerText(conn.LocalAddr(), conn.RemoteAddr()))
		}
	})
}

// serveUDP makes a pod answer every datagram at an address.
func serveUDP(t testing.TB, pod *sandbox.Pod, at string) {
	t.Helper()
	conn, err := pod.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		for {
			_, from, err := conn.ReadFrom(make([]byte, 100))
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(answerText(conn.LocalAddr(), from), from)
		}
	}()
}
