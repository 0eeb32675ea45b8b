package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfproxy/agent/health"
	"nfproxy/agent/metrics"
	"nfproxy/config"
	"nfproxy/logtest"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/sandbox"
)

const healthManifest = `apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: ns1, name: svc1}
spec: {type: LoadBalancer, clusterIPs: [10.96.0.1, "fd00:10:96::1"], externalTrafficPolicy: Local, healthCheckNodePort: 30100, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: ns1, name: svc1, labels: {kubernetes.io/service-name: svc1}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints:
- {addresses: [10.244.1.2], nodeName: node-a}
- {addresses: [10.244.1.3], nodeName: other}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: ns1, name: svc1-six, labels: {kubernetes.io/service-name: svc1}}
addressType: IPv6
ports: [{name: "", port: 8080}]
endpoints:
- {addresses: ["fd00:10:244:1::2"], nodeName: node-a}
- {addresses: ["fd00:10:244:1::3"], nodeName: other}
`

// runFor runs the daemon on the manifests of a directory until the test ends or the returned function is called.
func runFor(t *testing.T, dir, node string) (end func() error) {
	t.Helper()
	var log logtest.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var guard Guard
	go func() {
		done <- Run(ctx, config.Settings{Manifests: dir, Node: render.Node{Name: node}}, "v1.2.3", &guard, slog.New(slog.NewTextHandler(&log, nil)))
	}()
	end = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, guard.Close())
	})
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
		k, err := kernel.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		removeTables(t, k)
		if t.Failed() {
			t.Logf("logged:\n%s", log.String())
		}
	})
	return end
}

// newNodeNetwork makes this namespace a node with addresses of both families until the test ends.
func newNodeNetwork(t *testing.T) *sandbox.Network {
	t.Helper()
	node, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(node, netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(network.Close(), node.Close()); err != nil {
			t.Error(err)
		}
	})
	return network
}

// answered reports whether the health check node port at an address answers with this status and number of local
// endpoints, and says that the service proxy is healthy.
func answered(host string, status, endpoints int) bool {
	answer, err := http.Get("http://" + host + ":30100/")
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	var body struct {
		LocalEndpoints      int
		ServiceProxyHealthy bool
	}
	err = json.NewDecoder(answer.Body).Decode(&body)
	return err == nil && answer.StatusCode == status && body.LocalEndpoints == endpoints && body.ServiceProxyHealthy
}

// within fails the test unless something holds before the test loses patience.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// TestRunHealth: a health check node port follows the manifests: it answers, fails without local endpoints, goes, comes back,
// and is closed when the daemon ends.
func TestRunHealth(t *testing.T) {
	newNodeNetwork(t)
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(status, endpoints int) func() bool {
		return func() bool {
			return answered("192.0.2.10", status, endpoints) && answered("[2001:db8::10]", status, endpoints)
		}
	}
	refused := func() bool {
		_, err := net.Dial("tcp", "192.0.2.10:30100")
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	write(healthManifest)
	end := runFor(t, dir, "node-a")
	within(t, "200", answers(200, 1))
	write(strings.ReplaceAll(healthManifest, "node-a}\n-", "node-a, conditions: {ready: false, serving: true, terminating: true}}\n-"))
	within(t, "503 with an endpoint that terminates", answers(503, 0))
	write(strings.ReplaceAll(healthManifest, "Policy: Local", "Policy: Cluster"))
	within(t, "refused with the policy Cluster", refused)
	write(healthManifest)
	within(t, "200 again", answers(200, 1))
	wantLoopbackAlone(t)
	_ = end() // the cleanup reports it
	if !refused() {
		t.Error("the health check node port is still served")
	}
}

// TestHealthPortsTolerateFailures: health check node ports keep their answer while an external change, a failed attempt and
// an update wait to be programmed, which is shorter than kube-proxy's tolerance: the kernel still has the rules.
func TestHealthPortsTolerateFailures(t *testing.T) {
	newNodeNetwork(t)
	d := newDaemon(nil, nil, nil, render.Node{}, slog.New(slog.DiscardHandler))
	var l lifecycle
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	if err := addHealth(&l, d, config.Settings{}, "v1.2.3", health.NewNode(false), metrics.New("v1.2.3"), nil); err != nil {
		t.Fatal(err)
	}
	o := d.observers[0]
	update := render.Update{
		Node: render.Node{Name: "node-a", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}},
		Services: []render.Service{{
			ServiceName: render.ServiceName{Namespace: "ns1", Name: "svc1"}, ExternalLocal: true, HealthCheckNodePort: 30100,
			ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
			Ports: []render.Port{{Endpoints: []render.Endpoint{
				{AddrPort: netip.MustParseAddrPort("10.244.1.2:8080"), Node: "node-a", Ready: true}}}},
		}},
	}
	o.updated(update)
	o.committed(commit{})
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"programmed", func() {}},
		{"another program changes the tables", o.disturbed},
		{"an attempt fails", func() {
			if o.failed != nil {
				o.failed()
			}
		}},
		{"an update arrives", func() { o.updated(update) }},
		{"programmed again", func() { o.committed(commit{}) }},
	} {
		step.do()
		if !answered("192.0.2.10", 200, 1) {
			t.Errorf("%s: the port does not answer 200", step.name)
		}
	}
}

// wantLoopbackAlone fails if any interface routes to 127.0.0.0/8 (CVE-2020-8558).
func wantLoopbackAlone(t *testing.T) {
	t.Helper()
	files, _ := filepath.Glob("/proc/sys/net/ipv4/conf/*/route_localnet")
	for _, file := range files {
		if value, err := os.ReadFile(file); err != nil || string(value) != "0\n" {
			t.Errorf("%s is %q: %v", file, value, err)
		}
	}
	if len(files) < 3 { // all, default, lo
		t.Errorf("only %q are there", files)
	}
}
