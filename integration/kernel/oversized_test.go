package kernel

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// maxElements returns the setting of --max-service-elements.
func maxElements(limit uint32) func(*render.Node) {
	return func(n *render.Node) { n.MaxServiceElements = limit }
}

// oversized are Services that cost too much: what is left of them, and that others do not notice.
var oversized = []manifestCase{
	{
		name:     "cluster IPs and node ports are served, external IPs and load balancer addresses are not",
		settings: maxElements(16),
		services: []string{
			serviceManifest("large", "1", `type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], externalIPs: [198.51.100.7, 203.0.113.2],
  ports: [{name: p, port: 6443, nodePort: 30001}]`, "loadBalancer: {ingress: [{ip: 203.0.113.1}]}", "a"),
			serviceManifest("other", "2", `clusterIP: 10.96.0.2, externalIPs: [203.0.113.2], ports: [{name: p, port: 6443}]`, "", "b"),
		},
		packets: []string{
			"client 10.96.0.1:6443 10.244.1.2:8080 10.244.1.9", "client [fd00:10:96::1]:6443 [fd00:10:244:1::2]:8080", "outside 192.0.2.10:30001 10.244.1.2:8080",
			"client 198.51.100.7:6443 198.51.100.7:6443", "outside 203.0.113.1:6443 dropped",
			"client 10.96.0.2:6443 10.244.1.3:8080 10.244.1.9", "outside 203.0.113.2:6443 10.244.1.3:8080",
		},
	},
	{
		name:     "nothing is served, and the cluster IPs refuse connections at once",
		settings: maxElements(10),
		services: []string{
			serviceManifest("large", "1", `type: NodePort, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], externalIPs: [198.51.100.7],
  ports: [{name: p, port: 80, nodePort: 30001}]`, "", "a"),
			serviceManifest("other", "2", `clusterIP: 10.96.0.2, externalIPs: [203.0.113.2], ports: [{name: p, port: 80}]`, "", "b"),
		},
		packets: []string{
			"client 10.96.0.1:80 refused", "client [fd00:10:96::1]:80 refused", "node 10.96.0.1:80 refused", "outside 192.0.2.10:30001 refused",
			"client 10.96.0.2:80 10.244.1.3:8080 10.244.1.9", "outside 203.0.113.2:80 10.244.1.3:8080",
		},
	},
}

// TestOversized: what packets meet at the addresses of a Service that costs more elements than one Service may.
func TestOversized(t *testing.T) {
	for _, c := range oversized {
		t.Run(c.name, c.run)
	}
}

// TestOversizedIsCheap: a Service with 1,000 ports and 2,000 external IPs takes little memory and few elements, and a change of
// another Service follows at once. Without a bound it took 1.4 GB, and other changes waited for 51 s.
func TestOversizedIsCheap(t *testing.T) {
	m := newManifestNode(t, nft.IPv4, nft.IPv6)
	var ports, addresses []string
	for i := range 1000 {
		ports = append(ports, fmt.Sprintf("{name: p%d, port: %d}", i, i+1))
	}
	for i := range 2000 {
		addresses = append(addresses, fmt.Sprintf("11.0.%d.%d", i>>8, i&255))
	}
	m.write("node.yaml", nodeManifest("192.0.2.10", "2001:db8::10"))
	m.write("other.yaml", serviceManifest("other", "1", `clusterIP: 10.96.0.2, ports: [{name: p, port: 80}]`, "", "a"))
	m.applyNext()
	m.expect(t, "client 10.96.0.2:80 10.244.1.2:8080")

	m.write("large.yaml", serviceManifest("large", "2", "clusterIP: 10.96.0.1, externalIPs: ["+strings.Join(addresses, ", ")+"], ports: ["+strings.Join(ports, ", ")+"]", "", "a"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	m.applyNext()
	m.write("other.yaml", serviceManifest("other", "1", `clusterIP: 10.96.0.2, ports: [{name: p, port: 80}]`, "", "b"))
	m.applyNext()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	m.expect(t, "client 10.96.0.2:80 10.244.1.3:8080")
	elements := 0
	for _, table := range m.tables() {
		for _, set := range table.Sets {
			elements += len(set.Elements)
		}
	}
	allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
	t.Logf("%d elements, %d MB allocated, both changes in %s", elements, allocated, took)
	if elements > 2500 || allocated > 100 || took > 10*time.Second {
		t.Errorf("%d elements, %d MB allocated, both changes in %s", elements, allocated, took)
	}
}
