package cluster

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestEvents: nfproxy reports its start, conflicts, disallowed addresses, Services that are too large, ignored annotations, and occupied health check
// node ports and node ports at localhost as Events, with the permissions that deploy/rbac.yaml grants.
func TestEvents(t *testing.T) {
	c := New(t)
	listener, err := net.Listen("tcp", "192.0.2.10:30500") // another program occupies a health check node port
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if listener, err = net.Listen("tcp", "127.0.0.1:30600"); err != nil { // and a node port at localhost
		t.Fatal(err)
	}
	defer listener.Close()
	for i, name := range []string{"first", "second"} {
		_, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.ServiceSpec{ExternalIPs: []string{"203.0.113.7", "198.51.100.99"}, Ports: []corev1.ServicePort{{Port: 80}},
				Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
				HealthCheckNodePort: int32(30500 + i)},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	addLocalNodePort(t, c, 30600)
	large := corev1.ServiceSpec{ExternalIPs: []string{"203.0.113.20", "203.0.113.21", "203.0.113.22"}}
	for i := range 10 {
		large.Ports = append(large.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(i + 1)})
	}
	if _, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "large", Annotations: map[string]string{"nfproxy.io/slow-start": "soon"}}, Spec: large}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.startAgent("--max-service-elements", "30", "--external-ips", "203.0.113.0/24", "--nodeport-addresses", "primary,localhost")
	for _, want := range []string{
		"Node/node-a Normal Starting nfproxy ",
		"Service/second Warning FrontendConflict 203.0.113.7:80/tcp belongs to Service default/first, which is older",
		"Service/first Warning AddressRefused 198.51.100.99 in spec.externalIPs: nfproxy is set not to serve it",
		"Service/second Warning AddressRefused 198.51.100.99 in spec.externalIPs: ",
		"Service/first Warning FailedToStartServiceHealthcheck cannot listen at 192.0.2.10:30500: ",
		"Service/local Warning FailedToStartLocalhostNodePort cannot listen at 127.0.0.1:30600: ",
		"Service/large Warning AnnotationIgnored metadata.annotations[nfproxy.io/slow-start] of Service default/large: \"soon\" is neither 0 nor a time from 1s to 1h",
		"Service/large Warning ServiceTooLarge it needs more than the 30 elements that one Service may have: its external IPs and load balancer addresses are not served; ",
	} {
		EventuallyTrue(t, "the API has an Event "+want, func() (bool, string) {
			events := c.events()
			return slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, want) }), strings.Join(events, "\n")
		})
	}
}

// TestHostileEdits: an API client edits a Service a thousand times, each time with another address that is not served. nfproxy logs the first edit, and writes few lines and Events about all of them, as the API server counts them.
// It knows how many nodes there are.
func TestHostileEdits(t *testing.T) {
	c := New(t)
	for i := range 7 {
		c.AddNode(fmt.Sprint("other-", i))
	}
	agent := c.startAgent("--external-ips", "203.0.113.0/24", "-v", "4")
	config := c.AdminConfig()
	config.WarningHandler = rest.NoWarnings{} // about external IPs
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	services := client.CoreV1().Services("default")
	s, err := services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "hostile"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const edits, warning = 1000, "a Service names addresses that this node is set not to serve"
	for i := range edits {
		s.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.%d.%d", i>>8, i&255)}
		if s, err = services.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			EventuallyTrue(t, "the first edit is logged", func() (bool, string) { return len(agent.Log.Lines(warning)) > 0, agent.Log.String() })
		}
	}
	s.Spec.ExternalIPs = []string{"203.0.113.7"}
	if _, err = services.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	EventuallyTrue(t, "the last edit is programmed", func() (bool, string) {
		out, err := Command(t, "dump").CombinedOutput()
		return strings.Contains(string(out), "203.0.113.7"), fmt.Sprint(err, string(out))
	})
	var written int32
	EventuallyTrue(t, "there is an Event", func() (bool, string) {
		list, err := c.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=hostile"})
		if err != nil {
			t.Fatal(err)
		}
		written = 0
		for _, e := range list.Items {
			written += e.Count
		}
		return written > 0, "none"
	})
	lines := len(agent.Log.Lines(warning))
	t.Logf("%d lines and %d Events about %d edits", lines, written, edits)
	if lines > 10 || written > 5 {
		t.Error("too many")
	}
	if len(agent.Log.Lines("counted the nodes", "nodes=8")) != 1 {
		t.Error("the nodes are not counted")
	}
}

// addLocalNodePort adds the Service local with a node port and an endpoint.
func addLocalNodePort(t *testing.T, c *Cluster, nodePort int32) {
	t.Helper()
	port := corev1.ServicePort{Port: 80, NodePort: nodePort}
	_, err := c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "local"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{port}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "local", Labels: map[string]string{discoveryv1.LabelServiceName: "local"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(8080))}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.2"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// events returns the Events of nfproxy in namespace default, which also holds those about Nodes.
func (c *Cluster) events() []string {
	c.T.Helper()
	list, err := c.CoreV1().Events("default").List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	var all []string
	for _, e := range list.Items {
		if e.Source.Component == "nfproxy" {
			all = append(all, fmt.Sprintf("%s/%s %s %s %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Type, e.Reason, e.Message))
		}
	}
	return all
}
