package differential

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// arena is where the two proxies meet: an API server, and a node for each.
type arena struct {
	t          *testing.T
	api        *kubernetes.Clientset
	kubeconfig string   // of nfproxy
	view       string   // kubeconfig of kube-proxy
	dir        string   // of the configuration file
	stored     state    // what the API server has
	last, now  state    // of the current case
	recreated  []string // objects that the last edit deleted and created anew
	changes    int      // counts states, for the marker

	weightedTables int // that had endpoints of different weights

	kubeProxy contestant
	nfproxy   contestant
}

// contestant is a proxy on its node.
type contestant struct {
	*node
	observers []*observer
	process   *process
}

// newArena starts the API server and makes both nodes.
func newArena(t *testing.T) *arena {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	check(t, err)
	t.Cleanup(func() { ns.Close() })
	plane := controlplane.Start(t, ns)
	a := &arena{t: t, dir: t.TempDir(), kubeconfig: plane.Kubeconfig(plane.AdminConfig())}
	a.api, err = kubernetes.NewForConfig(plane.AdminConfig())
	check(t, err)
	a.kubeProxy.node, a.nfproxy.node = newNode(t, "kube-proxy"), newNode(t, "nfproxy")
	for _, c := range a.contestants() {
		c.observers = newObservers(c.node)
		t.Cleanup(func() { c.process.stop() })
	}
	cluster.ForwardAPI(t, ns, a.nfproxy.network.Node())
	serveView(t, plane.AdminConfig(), a.kubeProxy.network.Node())
	a.view = plane.Kubeconfig(&rest.Config{Host: "http://" + viewAddr})
	return a
}

func (a *arena) contestants() []*contestant { return []*contestant{&a.kubeProxy, &a.nfproxy} }

// both calls f for each of the proxies, at the same time.
func both[T any](a *arena, f func(*contestant) (T, error)) (kubeProxy, nfproxy T, err error) {
	done := make(chan error)
	go func() {
		var err error
		kubeProxy, err = f(&a.kubeProxy)
		done <- err
	}()
	nfproxy, err = f(&a.nfproxy)
	if other := <-done; other != nil {
		err = other
	}
	return kubeProxy, nfproxy, err
}

// begin starts both proxies with a configuration on the first state of a case. Nothing of the case before is left.
func (a *arena) begin(config string, first state) error {
	for _, c := range a.contestants() {
		c.process.stop()
		c.observers = newObservers(c.node)
		if err := c.network.Node().Run("flush ruleset", "nft", "-f", "-"); err != nil {
			return err
		}
		if err := flush(c.node); err != nil {
			return err
		}
	}
	if err := a.store(state{}); err != nil {
		return err
	}
	if err := a.store(first); err != nil {
		return err
	}
	if err := a.writeConfig(config); err != nil {
		return err
	}
	if err := a.startKubeProxy(); err != nil {
		return err
	}
	return a.startNfproxy()
}

// startNfproxy starts or restarts nfproxy.
func (a *arena) startNfproxy() (err error) {
	a.nfproxy.process.stop()
	a.nfproxy.process, err = start(a.nfproxy.network.Node(), nfproxyCommand(a.t, a.configFile(&a.nfproxy)))
	return err
}

// configFile returns the path of a proxy's configuration.
func (a *arena) configFile(c *contestant) string { return filepath.Join(a.dir, c.name+".yaml") }

// writeConfig writes the configuration of both proxies, with what the test needs.
func (a *arena) writeConfig(text string) error {
	if err := a.writeConfigOf(&a.kubeProxy, a.view, text); err != nil {
		return err
	}
	return a.writeConfigOf(&a.nfproxy, a.kubeconfig, text)
}

func (a *arena) writeConfigOf(c *contestant, kubeconfig, text string) error {
	var config map[string]any
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	config["hostnameOverride"] = nodeName
	config["clientConnection"] = map[string]any{"kubeconfig": kubeconfig, "qps": -1}
	config["conntrack"] = map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
	config["oomScoreAdj"] = 0
	nftables, _ := config["nftables"].(map[string]any)
	if nftables == nil {
		nftables = make(map[string]any)
	}
	nftables["minSyncPeriod"] = "10ms"
	config["nftables"] = nftables
	data, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(a.configFile(c), data, 0o600)
}

// startKubeProxy starts or restarts kube-proxy.
func (a *arena) startKubeProxy() error {
	a.kubeProxy.process.stop()
	cmd, err := kubeProxyCommand(a.configFile(&a.kubeProxy))
	if err == nil {
		a.kubeProxy.process, err = start(a.kubeProxy.network.Node(), cmd)
	}
	return err
}

// store changes the objects of the API server to a state, with the next marker.
func (a *arena) store(s state) error {
	a.changes++
	with := s.clone()
	with.services = append(with.services, a.markerService())
	with.slices = append(with.slices, a.markerSlice("4", discoveryv1.AddressTypeIPv4, "10.244.1.2"), a.markerSlice("6", discoveryv1.AddressTypeIPv6, "fd00:10:244:1::2"))
	var err error
	a.recreated, err = apply(a.t.Context(), a.api, a.stored, with)
	a.stored = with
	return err
}

// The marker is a Service with a port and endpoints whose numbers count the states. Services and EndpointSlices are written one
// after the other and each kind arrives in the order of its writing; so a proxy that has programmed the marker knows the state.
var markerAddrs = addrs("10.96.0.240", "fd00:10:96::240")

func (a *arena) marker() int32 { return int32(20000 + a.changes%30000) }

func (a *arena) markerService() *corev1.Service {
	policy := corev1.IPFamilyPolicyRequireDualStack
	return &corev1.Service{ObjectMeta: meta("marker"), Spec: corev1.ServiceSpec{IPFamilyPolicy: &policy,
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		ClusterIP:  markerAddrs[0].String(), ClusterIPs: []string{markerAddrs[0].String(), markerAddrs[1].String()},
		Ports: []corev1.ServicePort{{Name: "p", Protocol: corev1.ProtocolTCP, Port: a.marker()}}}}
}

func (a *arena) markerSlice(name string, family discoveryv1.AddressType, addr string) *discoveryv1.EndpointSlice {
	e := &discoveryv1.EndpointSlice{ObjectMeta: meta("marker-" + name), AddressType: family}
	e.Labels = map[string]string{discoveryv1.LabelServiceName: "marker"}
	port, protocol, portName := a.marker(), corev1.ProtocolTCP, "p"
	e.Ports = []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}}
	e.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{addr}}}
	return e
}

// awaitSync waits until both proxies have programmed the marker, in both families.
func (a *arena) awaitSync() error {
	for _, c := range a.contestants() {
		for i, endpoint := range addrs("10.244.1.2", "fd00:10:244:1::2") {
			if err := a.awaitMarker(c, markerAddrs[i], endpoint); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *arena) awaitMarker(c *contestant, vip, endpoint netip.Addr) error {
	frontend, backend := fmt.Sprintf("%s . 6 . %d", vip, a.marker()), fmt.Sprintf("%s . %d", endpoint, a.marker())
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, err := output(c.network.Node(), "nft", "-n", "list", "ruleset")
		if err == nil && strings.Contains(text, frontend) && strings.Contains(text, backend) {
			return nil
		}
		if c.process.ended() {
			return fmt.Errorf("%s has ended: %s", c.name, c.process.log)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has not programmed %s and %s: its log is\n%s", c.name, frontend, backend, c.process.log)
		}
	}
}
