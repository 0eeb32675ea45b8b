package clock

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
	"nfproxy/sandbox"
)

// Ports of nfproxy's HTTP servers.
const (
	healthPort  = 10256
	metricsPort = 10249
)

// endpoints are the addresses of the Pods that serve every Service.
var endpoints = []string{"10.244.1.2", "10.244.1.3", "10.244.1.4"}

// node is a node with Pods that serve and Pods that connect.
type node struct {
	t       *testing.T
	clients []*sandbox.Pod
	daemon  *cluster.Process
}

func newNode(t *testing.T) *node {
	t.Helper()
	here, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(here, cluster.NodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t}
	t.Cleanup(func() {
		if out, err := cluster.Command(t, "cleanup").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	addPod := func(name, addr string) *sandbox.Pod {
		pod, err := network.AddPod(name, netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	for i, addr := range endpoints {
		pod := addPod(fmt.Sprint("server-", i), addr)
		cluster.ServeGreeting(t, pod, addr+":8080", addr)
		cluster.ServeUDPEcho(t, pod, addr+":8080")
	}
	for i := range 6 {
		n.clients = append(n.clients, addPod(fmt.Sprint("client-", i), fmt.Sprintf("10.244.1.%d", 100+i)))
	}
	return n
}

// start starts nfproxy with a source of Services.
func (n *node) start(source ...string) {
	n.t.Helper()
	n.daemon = cluster.StartDaemon(n.t, append([]string{"run", "--hostname-override", cluster.NodeName, "--cluster-cidr", "10.244.0.0/16",
		"--conntrack-max-per-core", "0", "--oom-score-adj", "0"}, source...)...)
	n.daemon.AwaitLog("in sync")
}

// nodeObject returns the Node of the tests.
func nodeObject() *corev1.Node {
	return &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: cluster.NodeName},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: cluster.NodeAddrs[0].String()}}}}
}

// service returns a Service with a cluster IP, and its EndpointSlice, which was triggered now.
func service(name, ip string, affinity corev1.ServiceAffinity) (*corev1.Service, *discoveryv1.EndpointSlice) {
	port := int32(8080)
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "test", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Format(time.RFC3339Nano)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port}},
	}
	for _, e := range endpoints {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{e}})
	}
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "test", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, SessionAffinity: affinity, Ports: []corev1.ServicePort{{Port: 80}}},
	}, slice
}

// serviceUDP is service for UDP, with one endpoint.
func serviceUDP(name, ip, endpoint string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	service, slice := service(name, ip, corev1.ServiceAffinityNone)
	protocol := corev1.ProtocolUDP
	service.Spec.Ports[0].Protocol, slice.Ports[0].Protocol = protocol, &protocol
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{endpoint}}}
	return service, slice
}

// writeManifest writes objects as one manifest, of which nfproxy never reads a part.
func (n *node) writeManifest(dir, name string, objects ...any) {
	n.t.Helper()
	var documents []string
	for _, o := range objects {
		text, err := json.Marshal(o)
		if err != nil {
			n.t.Fatal(err)
		}
		documents = append(documents, string(text))
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", []byte(strings.Join(documents, "\n---\n")), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path+".yaml"); err != nil {
		n.t.Fatal(err)
	}
}

// reached returns the endpoint that each client reaches by a cluster IP.
func (n *node) reached(ip string) (all []string) {
	n.t.Helper()
	for _, client := range n.clients {
		endpoint, err := cluster.ReadGreeting(n.t.Context(), client.Namespace, ip+":80")
		if err != nil {
			n.t.Fatalf("%s: %v", ip, err)
		}
		all = append(all, endpoint)
	}
	return all
}

// awaitServed waits until a cluster IP is served. The first attempts to connect wait for the rules: other programs would cost the
// emulated processor much time.
func (n *node) awaitServed(ip string) {
	n.t.Helper()
	cluster.EventuallyTrue(n.t, ip+" is served", func() (bool, string) {
		_, err := cluster.ReadGreeting(n.t.Context(), n.clients[0].Namespace, ip+":80")
		return err == nil, fmt.Sprintf("%v\n%s", err, n.daemon.Log)
	})
	n.reached(ip)
}

// awaitDatagram waits until a client gets an answer by UDP from a cluster IP.
func (n *node) awaitDatagram(ip string) {
	n.t.Helper()
	cluster.EventuallyTrue(n.t, ip+" is served by UDP", func() (bool, string) {
		conn, err := n.clients[0].Dial(n.t.Context(), "udp", "", ip+":80")
		if err != nil {
			return false, err.Error()
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte("hello")) // fails if the kernel refuses it
		_, err = conn.Read(make([]byte, 100))
		return err == nil, fmt.Sprintf("%v\n%s", err, n.daemon.Log)
	})
}

// Parts of the lines that nfproxy logs after a repair and after a cleanup of conntrack.
const (
	repaired = "repaired what others had changed"
	deleted  = "deleted stale flows"
)

// awaitRepair deletes a table and waits until nfproxy has restored it.
func (n *node) awaitRepair() {
	n.t.Helper()
	before := len(n.daemon.Log.Lines(repaired))
	if out, err := exec.Command("nft", "delete", "table", "ip6", "nfproxy").CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
	cluster.EventuallyTrue(n.t, "the table is repaired", func() (bool, string) {
		return len(n.daemon.Log.Lines(repaired)) > before, n.daemon.Log.String()
	})
	if out, err := exec.Command("nft", "list", "table", "ip6", "nfproxy").CombinedOutput(); err != nil {
		n.t.Errorf("%v: %s", err, out)
	}
}

// comparisons returns the number of periodic comparisons so far.
func (n *node) comparisons() float64 {
	return n.metric(`nfproxy_comparisons_total{result="unchanged"}`)
}

// awaitComparison waits for the periodic comparison, which takes place 5 to 7.5 minutes after the last comparison or repair. That was a
// few minutes ago at most. before is the number of comparisons a moment ago.
func (n *node) awaitComparison(before float64) {
	n.t.Helper()
	for waited := time.Minute; ; waited += time.Minute {
		time.Sleep(time.Minute)
		switch more := n.comparisons() - before; {
		case more > 1 || more == 1 && waited == time.Minute || more == 0 && waited >= 8*time.Minute:
			n.t.Errorf("%v comparisons in %v", more, waited)
			return
		case more == 1:
			return
		}
	}
}

// healthy fails the test unless nfproxy is healthy, with times of the present clock that are in order.
func (n *node) healthy() {
	n.t.Helper()
	for _, path := range []string{"/livez", "/healthz"} {
		status, body := cluster.Fetch(healthPort, path)
		var answer struct {
			LastUpdated, CurrentTime time.Time
			Status                   map[string]struct{ LastUpdated time.Time }
		}
		if err := json.Unmarshal([]byte(body), &answer); status != 200 || err != nil {
			n.t.Errorf("%s: status %d, %v: %s", path, status, err, body)
			continue
		}
		now := time.Now()
		for _, at := range []time.Time{answer.LastUpdated, answer.CurrentTime, answer.Status["IPv4"].LastUpdated} {
			if age := now.Sub(at); age < 0 || age > time.Hour {
				n.t.Errorf("%s: a time is %v ago: %s", path, age, body)
			}
		}
	}
}

// metric returns a sample of /metrics, or NaN if there is none.
func (n *node) metric(name string) float64 {
	n.t.Helper()
	status, body := cluster.Fetch(metricsPort, "/metrics")
	if status != 200 {
		n.t.Fatalf("/metrics: status %d: %s", status, body)
	}
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return number
		}
	}
	return math.NaN()
}

// logged returns the lines of the log from a length on that contain none of the texts.
func (n *node) logged(from int, expected ...string) (others []string) {
	n.t.Helper()
	for line := range strings.Lines(n.daemon.Log.String()[from:]) {
		if !slices.ContainsFunc(expected, func(text string) bool { return strings.Contains(line, text) }) {
			others = append(others, line)
		}
	}
	return others
}
