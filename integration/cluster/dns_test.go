package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

const dnsClusterIP = "10.96.0.10"

// TestServiceByDNSName: a client resolves a Service by its DNS name and connects to it, and no connection fails while one of
// its Pods is replaced. Everything but the kubelet is real: the controllers write the EndpointSlices, nfproxy the rules, and
// CoreDNS, which reaches the API server by its cluster IP, answers at a cluster IP.
func TestServiceByDNSName(t *testing.T) {
	c := New(t)
	c.StartControllerManager()
	c.createService("kube-system", "kube-dns", dnsClusterIP, corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
		corev1.ServicePort{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53})
	c.createService("default", "echo-service", "", corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(8080)})
	c.startAgent()
	EventuallyTrue(t, "the API server is an endpoint of its Service", c.DumpContains("default/kubernetes:https", "192.0.2.10:6443"))

	dns := c.AddPod("kube-system", "coredns", map[string]string{"app": "kube-dns"}, "10.244.1.53")
	c.StartCoreDNS(dns.Namespace, netip.MustParseAddr("10.244.1.53"))
	for i := range 3 {
		c.addEcho(fmt.Sprintf("echo-%d", i), fmt.Sprintf("10.244.1.%d", 10+i))
	}
	EventuallyTrue(t, "all Pods are endpoints", c.DumpContains("10.244.1.10:8080*, 10.244.1.11:8080*, 10.244.1.12:8080*", "10.244.1.53:53*"))

	client := c.AddPod("default", "client", nil, "10.244.1.99")
	frontend := resolve(t, client.Namespace)
	clients := StartClients(t, 4, client.Namespace, frontend)
	clients.AwaitMore(t, 200)

	// One Pod is replaced by one with another address.
	if err := c.CoreV1().Pods("default").Delete(t.Context(), "echo-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	EventuallyTrue(t, "the Pod is no longer an endpoint", Not(c.DumpContains("10.244.1.11:8080")))
	clients.AwaitMore(t, 20) // connections on their way to the deleted Pod
	if err := c.Network.RemovePod(c.pods["echo-1"]); err != nil {
		t.Fatal(err)
	}
	c.addEcho("echo-1-again", "10.244.1.77")
	EventuallyTrue(t, "the new Pod is an endpoint", c.DumpContains("10.244.1.77:8080"))
	clients.AwaitMore(t, 200)
	if failed := clients.Stop(); len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), clients.Total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	for _, pod := range []string{"echo-0", "echo-1", "echo-1-again", "echo-2"} {
		if n := clients.answers["Hello! I am Pod: "+pod]; n < 10 { // a third of 400 is expected; fewer than 10 has a probability below 10^-40
			t.Errorf("Pod %s answered %d connections: %v", pod, n, clients.answers)
		}
	}
}

// addEcho adds a Pod that Service echo-service selects and that greets with its name.
func (c *Cluster) addEcho(name, addr string) {
	c.T.Helper()
	pod := c.AddPod("default", name, map[string]string{"app": "echo-service"}, addr)
	ServeGreeting(c.T, pod, addr+":8080", "Hello! I am Pod: "+name)
}

// createService creates a Service that selects the Pods whose label app is its name.
func (c *Cluster) createService(namespace, name, clusterIP string, ports ...corev1.ServicePort) *corev1.Service {
	c.T.Helper()
	s, err := c.CoreV1().Services(namespace).Create(c.T.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP, Selector: map[string]string{"app": name}, Ports: ports},
	}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	return s
}

// resolve resolves echo-service with the cluster's DNS, over UDP and over TCP, and returns its frontend.
func resolve(t *testing.T, from *sandbox.Namespace) string {
	t.Helper()
	var found []netip.Addr
	for _, network := range []string{"udp", "tcp"} {
		ctx, cancel := context.WithTimeout(t.Context(), Timeout)
		defer cancel()
		resolver := controlplane.Resolver(from, network, netip.AddrPortFrom(netip.MustParseAddr(dnsClusterIP), 53))
		addrs, err := resolver.LookupNetIP(ctx, "ip4", "echo-service.default.svc.cluster.local.")
		if err != nil || len(addrs) != 1 {
			t.Fatalf("DNS over %s returned %v, %v, want one address", network, addrs, err)
		}
		found = append(found, addrs[0])
	}
	if found[0] != found[1] {
		t.Errorf("DNS over UDP returned %s, over TCP %s", found[0], found[1])
	}
	return netip.AddrPortFrom(found[0], 80).String()
}
