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

// TestStory is the whole of it, with nobody replaced but the kubelet: Pods and Services in the API server, slices by the
// controllers, rules by nfproxy, names by CoreDNS, which is reached, and reaches the API server, by cluster IPs.
func TestServiceByDNSName(t *testing.T) {
	c := New(t)
	c.StartControllerManager()
	c.createService("kube-system", "kube-dns", dnsClusterIP, corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
		corev1.ServicePort{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53})
	c.createService("default", "echo-service", "", corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(8080)})
	c.startAgent()
	EventuallyTrue(t, "the API server is reached by its cluster IP", c.DumpContains("default/kubernetes:https", "192.0.2.10:6443"))

	dns := c.AddPod("kube-system", "coredns", map[string]string{"app": "kube-dns"}, "10.244.1.53")
	c.StartCoreDNS(dns.Namespace, netip.MustParseAddr("10.244.1.53"))
	for i := range 3 {
		c.addEcho(fmt.Sprintf("echo-%d", i), fmt.Sprintf("10.244.1.%d", 10+i))
	}
	EventuallyTrue(t, "all Pods are endpoints", c.DumpContains("10.244.1.10:8080*, 10.244.1.11:8080*, 10.244.1.12:8080*", "10.244.1.53:53*"))

	client := c.AddPod("default", "client", nil, "10.244.1.99")
	at := resolve(t, client.Namespace)
	load := StartClients(t, 4, client.Namespace, at)
	load.AwaitMore(t, 200)

	// One Pod dies, and comes back with another address.
	if err := c.CoreV1().Pods("default").Delete(t.Context(), "echo-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	EventuallyTrue(t, "the Pod is no endpoint any more", Not(c.DumpContains("10.244.1.11:8080")))
	load.AwaitMore(t, 20) // those that were on their way to it
	if err := c.Network.RemovePod(c.pods["echo-1"]); err != nil {
		t.Fatal(err)
	}
	c.addEcho("echo-1-again", "10.244.1.77")
	EventuallyTrue(t, "the Pod is an endpoint again", c.DumpContains("10.244.1.77:8080"))
	load.AwaitMore(t, 200)
	if failed := load.Stop(); len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), load.Total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	for _, pod := range []string{"echo-0", "echo-1", "echo-1-again", "echo-2"} {
		if n := load.answers["Hello! I am Pod: "+pod]; n < 10 { // of 400, a third each; fewer is less likely than 1 in 10^40
			t.Errorf("%s answered %d times: %v", pod, n, load.answers)
		}
	}
}

// addEcho adds a Pod of Service echo-service.
func (c *Cluster) addEcho(name, addr string) {
	c.T.Helper()
	pod := c.AddPod("default", name, map[string]string{"app": "echo-service"}, addr)
	ServeGreeting(c.T, pod, addr+":8080", "Hello! I am Pod: "+name)
}

// createService creates a Service that selects the Pods with its name as label app.
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

// resolve asks the cluster's DNS for echo-service, over UDP and TCP, and returns its address.
func resolve(t *testing.T, from *sandbox.Namespace) string {
	t.Helper()
	var found []netip.Addr
	for _, network := range []string{"udp", "tcp"} {
		ctx, cancel := context.WithTimeout(t.Context(), Timeout)
		defer cancel()
		resolver := controlplane.Resolver(from, network, netip.AddrPortFrom(netip.MustParseAddr(dnsClusterIP), 53))
		addrs, err := resolver.LookupNetIP(ctx, "ip4", "echo-service.default.svc.cluster.local.")
		if err != nil || len(addrs) != 1 {
			t.Fatalf("over %s: %v, %v", network, addrs, err)
		}
		found = append(found, addrs[0])
	}
	if found[0] != found[1] {
		t.Errorf("over UDP %s, over TCP %s", found[0], found[1])
	}
	return netip.AddrPortFrom(found[0], 80).String()
}
