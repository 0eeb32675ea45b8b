package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"nfproxy/render"
)

// allowExternalIPs and allowLoadBalancerIPs return the settings of --external-ips and --load-balancer-ips: only addresses in
// these ranges are served.
func allowExternalIPs(ranges ...string) func(*render.Node) {
	return func(n *render.Node) { n.ExternalIPs = allowlist(ranges) }
}

func allowLoadBalancerIPs(ranges ...string) func(*render.Node) {
	return func(n *render.Node) { n.LoadBalancerIPs = allowlist(ranges) }
}

func allowlist(ranges []string) render.Allowlist {
	a := render.Allowlist{Only: true}
	for _, r := range ranges {
		a.Within = append(a.Within, netip.MustParsePrefix(r))
	}
	return a
}

// sliceManifest returns an EndpointSlice of one family with port 8080, named p. The addresses are separated by spaces.
func sliceManifest(service, addressType, addresses string) string {
	const format = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: test, name: %[1]s-%[3]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[2]s
ports: [{name: p, port: 8080}]
endpoints: [{addresses: [%[4]s]}]
---
`
	return fmt.Sprintf(format, service, addressType, strings.ToLower(addressType), strings.ReplaceAll(addresses, " ", "]}, {addresses: ["))
}

// hostileAddresses are Services that name addresses of other Services, nodes and hosts. Each thief is older than its victim and precedes it by name.
var hostileAddresses = []manifestCase{
	{
		name: "external IPs that are another Service's cluster IPs take none of its ports",
		services: []string{
			serviceManifest("a-thief", "1", `clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], externalIPs: [10.96.0.10, "fd00:10:96::10"], ports: [{name: p, port: 53}, {name: q, port: 54}]`, "", "a"),
			serviceManifest("dns", "2", `clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, "fd00:10:96::10"], ports: [{name: p, port: 53}]`, "", "b"),
		},
		conflicts: []string{"10.96.0.10:53/tcp: dns, not a-thief", "[fd00:10:96::10]:53/tcp: dns, not a-thief"},
		packets: []string{
			"client 10.96.0.10:53 10.244.1.3:8080 10.244.1.9", "client [fd00:10:96::10]:53 [fd00:10:244:1::3]:8080 fd00:10:244:1::9",
			"node 10.96.0.10:53 10.244.1.3:8080", "client 10.96.0.1:53 10.244.1.2:8080",
		},
	},
	{
		name: "load balancer addresses that are another Service's cluster IP take none of its ports",
		services: []string{
			serviceManifest("a-thief", "1", `type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{name: p, port: 443}]`, "loadBalancer: {ingress: [{ip: 10.96.0.10}]}", "a"),
			serviceManifest("kubernetes", "2", `clusterIP: 10.96.0.10, ports: [{name: p, port: 443}]`, "", "b"),
		},
		conflicts: []string{"10.96.0.10:443/tcp: kubernetes, not a-thief"},
		packets:   []string{"client 10.96.0.10:443 10.244.1.3:8080 10.244.1.9"},
	},
	{
		name: "external IPs that are node addresses take no node port",
		services: []string{
			serviceManifest("a-thief", "1", `clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], externalIPs: [192.0.2.10, "2001:db8::10"], ports: [{name: p, port: 30001}]`, "", "a"),
			serviceManifest("web", "2", `type: NodePort, clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, "fd00:10:96::10"],
  ports: [{name: p, port: 80, nodePort: 30001}]`, "", "b"),
		},
		conflicts: []string{"192.0.2.10:30001/tcp: web, not a-thief", "[2001:db8::10]:30001/tcp: web, not a-thief"},
		packets:   []string{"outside 192.0.2.10:30001 10.244.1.3:8080", "outside [2001:db8::10]:30001 [fd00:10:244:1::3]:8080"},
	},
	{
		name: "external IPs that are another Service's load balancer addresses take none of its ports",
		services: []string{
			serviceManifest("a-thief", "1", `clusterIP: 10.96.0.1, externalIPs: [203.0.113.1], ports: [{name: p, port: 80}]`, "", "a"),
			serviceManifest("web", "2", `type: LoadBalancer, clusterIP: 10.96.0.10, ports: [{name: p, port: 80}]`, "loadBalancer: {ingress: [{ip: 203.0.113.1}]}", "b"),
		},
		conflicts: []string{"203.0.113.1:80/tcp: web, not a-thief"},
		packets:   []string{"outside 203.0.113.1:80 10.244.1.3:8080"},
	},
	{
		name: "external IPs take ports of the node, and addresses outside the cluster",
		services: []string{
			serviceManifest("node", "1", `clusterIP: 10.96.0.1, externalIPs: [192.0.2.10], ports: [{name: p, port: 22}]`, "", "a"),
			serviceManifest("elsewhere", "1", `clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2, "fd00:10:96::2"], externalIPs: [198.51.100.7, "2001:db8:51::7"], ports: [{name: p, port: 6443}]`, "", "a"),
		},
		packets: []string{
			"outside 192.0.2.10:22 10.244.1.2:8080", "client 198.51.100.7:6443 10.244.1.2:8080", "node 198.51.100.7:6443 10.244.1.2:8080",
			"client [2001:db8:51::7]:6443 [fd00:10:244:1::2]:8080",
		},
	},
	{
		name:     "disallowed external IPs take nothing, and the other frontends of the Service are served",
		settings: allowExternalIPs(),
		services: []string{serviceManifest("thief", "1", `type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], externalIPs: [192.0.2.10, 198.51.100.7, "2001:db8:51::7", 10.96.0.77],
  ports: [{name: p, port: 22, nodePort: 30001}, {name: q, port: 6443}]`, "loadBalancer: {ingress: [{ip: 203.0.113.1}]}", "a")},
		packets: []string{
			"outside 192.0.2.10:22 192.0.2.10:22 198.51.100.7", "client 198.51.100.7:6443 198.51.100.7:6443", "node 198.51.100.7:6443 198.51.100.7:6443",
			"client [2001:db8:51::7]:6443 [2001:db8:51::7]:6443", "client 10.96.0.77:22 dropped",
			"client 10.96.0.1:22 10.244.1.2:8080 10.244.1.9", "outside 192.0.2.10:30001 10.244.1.2:8080", "outside 203.0.113.1:22 10.244.1.2:8080",
		},
	},
	{
		name:     "only external IPs in an allowed range are served",
		settings: allowExternalIPs("203.0.113.0/24"),
		services: []string{serviceManifest("mixed", "1", `clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], externalIPs: [203.0.113.1, 198.51.100.7, "2001:db8:51::7"], ports: [{name: p, port: 6443}]`, "", "a")},
		packets: []string{"outside 203.0.113.1:6443 10.244.1.2:8080", "client 198.51.100.7:6443 198.51.100.7:6443",
			"client [2001:db8:51::7]:6443 [2001:db8:51::7]:6443"},
	},
	{
		name:     "only load balancer addresses in an allowed range are served, even if they are external IPs as well",
		settings: allowLoadBalancerIPs("203.0.113.0/24"),
		services: []string{serviceManifest("mixed", "1", `type: LoadBalancer, clusterIP: 10.96.0.1, externalIPs: [203.0.113.2, 198.51.100.7], ports: [{name: p, port: 6443}]`,
			"loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 198.51.100.7}]}", "a")},
		packets: []string{"outside 203.0.113.1:6443 10.244.1.2:8080", "outside 203.0.113.2:6443 10.244.1.2:8080",
			"client 198.51.100.7:6443 198.51.100.7:6443"},
	},
	{
		name: "loopback, link-local, multicast, broadcast and unspecified addresses are invalid external IPs",
		services: []string{serviceManifest("odd", "1", `clusterIP: 10.96.0.1, ports: [{name: p, port: 80}],
  externalIPs: [127.0.0.1, "::1", 0.0.0.0, "::", 224.0.0.1, "ff02::1", 169.254.169.254, "fe80::1", 255.255.255.255, "::ffff:192.0.2.10"]`, "", "a")},
		problems: []string{"odd spec.externalIPs[0]", "odd spec.externalIPs[1]", "odd spec.externalIPs[2]", "odd spec.externalIPs[3]", "odd spec.externalIPs[4]",
			"odd spec.externalIPs[5]", "odd spec.externalIPs[6]", "odd spec.externalIPs[7]", "odd spec.externalIPs[8]", "odd spec.externalIPs[9]"},
		packets: []string{"node 127.0.0.1:80 refused", "node [::1]:80 refused", "client 10.96.0.1:80 10.244.1.2:8080"},
	},
}

// TestHostileAddresses: which addresses and ports a Service can take over by naming them, and which it cannot.
func TestHostileAddresses(t *testing.T) {
	for _, c := range hostileAddresses {
		t.Run(c.name, c.run)
	}
}

// hostileEndpoints are EndpointSlices that name addresses other than those of their Service's Pods.
var hostileEndpoints = []manifestCase{
	{
		name: "loopback, link-local, multicast, broadcast and unspecified addresses are no endpoints",
		services: []string{`
apiVersion: v1
kind: Service
metadata: {namespace: test, name: web}
spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], ports: [{name: p, port: 80}]}
---
`, sliceManifest("web", "IPv4", "127.0.0.1 169.254.169.254 0.0.0.0 224.0.0.1 255.255.255.255 10.244.1.2"),
			sliceManifest("web", "IPv6", `"::1" "fe80::1" "::ffff:127.0.0.1"`)},
		problems: []string{"web-ipv4 endpoints[0].addresses[0]", "web-ipv4 endpoints[1].addresses[0]", "web-ipv4 endpoints[2].addresses[0]",
			"web-ipv4 endpoints[3].addresses[0]", "web-ipv4 endpoints[4].addresses[0]",
			"web-ipv6 endpoints[0].addresses[0]", "web-ipv6 endpoints[1].addresses[0]", "web-ipv6 endpoints[2].addresses[0]"},
		packets: []string{"client 10.96.0.1:80 10.244.1.2:8080", "node 10.96.0.1:80 10.244.1.2:8080", "client [fd00:10:96::1]:80 refused"},
	},
	{
		name: "any other address is an endpoint, and its clients keep their source, so that network policies apply",
		services: []string{`
apiVersion: v1
kind: Service
metadata: {namespace: test, name: web}
spec: {clusterIP: 10.96.0.1, ports: [{name: p, port: 80}]}
---
`, strings.Replace(sliceManifest("web", "IPv4", "192.0.2.10"), "port: 8080", "port: 22", 1)},
		packets: []string{"client 10.96.0.1:80 192.0.2.10:22 10.244.1.9"},
	},
}

// TestHostileEndpoints: to which addresses an EndpointSlice can lead clients, and to which it cannot.
func TestHostileEndpoints(t *testing.T) {
	for _, c := range hostileEndpoints {
		t.Run(c.name, c.run)
	}
}
