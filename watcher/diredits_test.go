package watcher

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestDirEditsThatChangeNothing(t *testing.T) {
	t.Parallel()
	slice1, slice2 := sliceYAML("a-1", "a", "10.1.0.1", "10.1.0.2"), sliceYAML("a-2", "a", "10.1.0.3")
	d := newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+slice1+"---\n"+slice2)
	})
	for _, text := range []string{
		"# a comment\n" + serviceYAML("a", "10.96.0.1") + "---\n" + slice1 + "---\n" + slice2,
		slice2 + "---\n" + sliceYAML("a-1", "a", "10.1.0.2", "10.1.0.1") + "---\n" + serviceYAML("a", "10.96.0.1"),
		strings.Replace(serviceYAML("a", "10.96.0.1"), "name: a", "name: a\n  labels: {x: y}", 1) + "---\n" + slice1 + "---\n" + slice2,
		serviceYAML("a", "10.96.0.1") + "---\n" + sliceYAML("a-9", "a", "10.1.0.3", "10.1.0.2", "10.1.0.1"),
	} {
		d.write("a.yaml", text)
		d.quiet()
	}
}

// fullYAML is a Service and an EndpointSlice with all the fields that are read.
const fullYAML = `apiVersion: v1

kind: Service
metadata: {name: a}
spec:
  clusterIP: 10.96.0.1
  type: LoadBalancer
  externalIPs: [192.0.2.1]
  externalTrafficPolicy: Cluster
  internalTrafficPolicy: Cluster
  loadBalancerSourceRanges: [203.0.113.0/24]
  ports: [{port: 80, nodePort: 30080}]
status:
  loadBalancer: {ingress: [{ip: 192.0.2.7, ipMode: VIP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- addresses: [10.1.0.1]
  conditions: {ready: false, serving: true, terminating: false}
  hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}
`

// TestDirEveryEditCounts: an edit of a single field gives an Update of its Service. Equivalent text gives none.
func TestDirEveryEditCounts(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), fullYAML)
		writeFile(t, filepath.Join(path, "b.yaml"), serviceYAML("b", "10.96.0.2"))
	})
	for _, edit := range [][2]string{
		{"[192.0.2.1]", "[192.0.2.2]"},
		{"externalTrafficPolicy: Cluster", "externalTrafficPolicy: Local"},
		{"internalTrafficPolicy: Cluster", "internalTrafficPolicy: Local"},
		{"203.0.113.0/24", "203.0.113.0/25"},
		{"30080", "30081"},
		{"192.0.2.7", "192.0.2.8"},
		{"ipMode: VIP", "ipMode: Proxy"},
		{"serving: true", "serving: false"},
		{"terminating: false", "terminating: true"},
		{"z1", "z2"},
		{"n1", "n2"},
		{"\n  hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}", ""},
	} {
		for _, now := range []string{strings.Replace(fullYAML, edit[0], edit[1], 1), fullYAML} {
			d.write("a.yaml", now)
			d.expect("", "", "a")
		}
	}
	for _, edit := range [][2]string{
		{"203.0.113.0/24", "203.0.113.99/24"},
		{", ipMode: VIP", ""},
		{", terminating: false", ""},
		{"{name: z1}", "{name: z1}, {name: ''}"},
		{"metadata: {name: a}", "metadata: {name: a, annotations: {x: y}}"},
	} {
		d.write("a.yaml", strings.Replace(fullYAML, edit[0], edit[1], 1))
		d.quiet()
	}
}
