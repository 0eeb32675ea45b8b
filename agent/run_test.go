package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfproxy/config"
	"nfproxy/nft/kernel"
	"nfproxy/render"
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

// runFor runs nfproxy on the manifests of a directory until the test or the function it returns ends it.
func runFor(t *testing.T, dir, node string) (end func() error) {
	t.Helper()
	var log lines
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, config.Settings{Manifests: dir, Node: render.Node{Name: node}}, "v1.2.3", slog.New(slog.NewTextHandler(&log, nil)))
	}()
	end = sync.OnceValue(func() error {
		cancel()
		return <-done
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

// TestRunHealth: from manifests to answers and away again.
func TestRunHealth(t *testing.T) {
	newHealthNode(t)
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(want string) func() bool {
		return func() bool {
			four, err4 := ask(node4, healthPort, "/")
			six, err6 := ask(node6, healthPort, "/")
			return err4 == nil && err6 == nil && four == want && six == want
		}
	}
	refused := func() bool {
		_, err := ask(node4, healthPort, "/")
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	write(healthManifest)
	end := runFor(t, dir, "node-a")
	within(t, 5*time.Second, "200", answers(answer(ok200, "svc1", 1, true)))
	write(strings.ReplaceAll(healthManifest, "node-a}\n-", "node-a, conditions: {ready: false, serving: true, terminating: true}}\n-"))
	within(t, 5*time.Second, "503 with an endpoint that terminates", answers(answer(bad503, "svc1", 0, true)))
	write(strings.ReplaceAll(healthManifest, "Policy: Local", "Policy: Cluster"))
	within(t, 5*time.Second, "refused with the policy Cluster", refused)
	write(healthManifest)
	within(t, 5*time.Second, "200 again", answers(answer(ok200, "svc1", 1, true)))
	wantLoopbackAlone(t)
	_ = end() // the cleanup reports it
	wantRefused(t, node4, healthPort)
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
