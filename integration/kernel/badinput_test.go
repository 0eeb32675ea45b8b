package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/config"
	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
	"nfproxy/watcher"
)

// manifestNode is a node that follows a directory of manifests. Pods a and b serve at port 8080, client is a pod without a
// server, and outside is a host outside the cluster.
type manifestNode struct {
	*testNode
	dir       string
	source    *watcher.Source
	log       bytes.Buffer
	conflicts []string
	from      map[string]*sandbox.Namespace
	known     bool
}

// newManifestNode returns a node that has addresses and CIDRs of these families only.
func newManifestNode(t *testing.T, families ...nft.Family) *manifestNode {
	t.Helper()
	only := func(addr netip.Addr) bool { return slices.Contains(families, render.Family(addr)) }
	m := &manifestNode{testNode: newTestNode(t), dir: t.TempDir()}
	addrs := slices.DeleteFunc(m.facts.Addresses, func(a netip.Addr) bool { return !only(a) })
	for _, cidrs := range []*[]netip.Prefix{&m.facts.ClusterCIDRs, &m.facts.ServiceCIDRs} {
		*cidrs = slices.DeleteFunc(*cidrs, func(p netip.Prefix) bool { return !only(p.Addr()) })
	}
	m.facts.Addresses = nil // the manifest of the Node sets them
	m.ruleset = render.NewRuleset(m.facts)
	var err error
	if m.network, err = sandbox.NewNetwork(m.node, addrs...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.network.Close() })
	m.from = map[string]*sandbox.Namespace{"node": m.node}
	for _, p := range []struct {
		name  string
		port  uint16
		addrs []string
	}{
		{"a", 8080, []string{"10.244.1.2", "fd00:10:244:1::2"}},
		{"b", 8080, []string{"10.244.1.3", "fd00:10:244:1::3"}},
		{"client", 0, []string{"10.244.1.9", "fd00:10:244:1::9"}},
		{"outside", 0, []string{"198.51.100.7", "2001:db8:51::7"}},
	} {
		m.from[p.name] = m.pod(p.name, p.port, p.addrs...).Namespace
	}
	m.open()
	t.Cleanup(func() { m.source.Close() })
	return m
}

// open opens the directory as the daemon does, with the default settings of node ports.
func (m *manifestNode) open() {
	m.t.Helper()
	set := config.Settings{Manifests: m.dir, Node: m.facts, NodePorts: config.NodePorts{Primary: true}}
	err := m.node.Do(func() (err error) {
		m.source, err = watcher.Open(set, "test", slog.New(slog.NewTextHandler(&m.log, nil)))
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// write replaces a manifest atomically.
func (m *manifestNode) write(name, text string) {
	m.t.Helper()
	hidden := filepath.Join(m.dir, "."+name)
	if err := os.WriteFile(hidden, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(hidden, filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
}

// applyNext waits for the next update, applies it and returns its node.
func (m *manifestNode) applyNext() render.Node {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	update, err := m.source.Next(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, c := range m.ruleset.Update(update) {
		m.conflicts = append(m.conflicts, fmt.Sprintf("%s/%s: %s, not %s", c.Address, c.Protocol, c.Winner.Name, c.Loser.Name))
	}
	slices.Sort(m.conflicts)
	if !m.known {
		m.reconcile()
		m.known = true
		return update.Node
	}
	if err := m.kernel.Apply(m.ruleset.Plan(), 0); err != nil {
		m.t.Fatal(err)
	}
	m.ruleset.Accept()
	return update.Node
}

// applyUntil applies updates up to the first whose node is as expected. The addresses of interfaces can change at any time.
func (m *manifestNode) applyUntil(expected func(render.Node) bool) {
	m.t.Helper()
	for !expected(m.applyNext()) {
	}
}

// serviceManifest returns the manifests of a Service with this spec and status, and of an EndpointSlice per family with pod a
// or b as the endpoint at port 8080, named p.
func serviceManifest(name, created, spec, status, pod string) string {
	const format = `
apiVersion: v1
kind: Service
metadata: {namespace: test, name: %[1]s, creationTimestamp: "2026-01-0%[2]sT00:00:00Z"}
spec: {%[3]s}
status: {%[4]s}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: test, name: %[1]s-4, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: p, port: 8080}]
endpoints: [{addresses: ["10.244.1.%[5]s"], nodeName: node-a}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: test, name: %[1]s-6, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv6
ports: [{name: p, port: 8080}]
endpoints: [{addresses: ["fd00:10:244:1::%[5]s"], nodeName: node-a}]
---
`
	return fmt.Sprintf(format, name, created, spec, status, map[string]string{"a": "2", "b": "3"}[pod])
}

// nodeManifest returns the manifest of the Node with these addresses.
func nodeManifest(addresses ...string) string {
	text := "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nstatus: {addresses: ["
	for _, a := range addresses {
		text += `{type: InternalIP, address: "` + a + `"},`
	}
	return text + "]}\n"
}

// expect opens a connection for each line "SOURCE DESTINATION OUTCOME [SEEN]". The outcome is the endpoint, refused or dropped;
// SEEN is the source address that the endpoint must see.
func (m *manifestNode) expect(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		f := append(strings.Fields(line), "")
		timeout := connectTimeout
		if f[2] == "dropped" {
			timeout = 200 * time.Millisecond
		}
		got, err := connect(m.from[f[0]], nft.TCP, "", f[1], timeout)
		outcome := got.endpoint.String()
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			outcome = "refused"
		case err != nil && isTimeout(err):
			outcome = "dropped"
		case err != nil:
			outcome = err.Error()
		}
		if outcome != f[2] {
			t.Errorf("%s: got %s", line, outcome)
		}
		if seen := got.source.Addr().String(); err == nil && f[3] != "" && seen != f[3] {
			t.Errorf("%s: the endpoint saw %s", line, seen)
		}
	}
}

// loggedProblem matches a problem in the log: the name of the object and the field.
var loggedProblem = regexp.MustCompile(`level=(?:WARN|ERROR) .*object="(?:Service|EndpointSlice) test/([^"]*)" field=(\S+)`)

// manifestCase is a set of manifests with the problems and conflicts to be reported and the expected fate of packets.
type manifestCase struct {
	name      string
	settings  func(*render.Node) // changes settings, unless it is nil
	services  []string
	problems  []string // name of the object and field, sorted
	conflicts []string
	tables    []string // texts in the IPv4 table
	packets   []string // lines for expect
}

// badInput are manifests with invalid, duplicate or conflicting fields.
var badInput = []manifestCase{
	{
		name: "affinity timeouts out of bounds",
		services: []string{
			serviceManifest("below", "1", "clusterIP: 10.96.0.1, ports: [{name: p, port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: -5}}", "", "a"),
			serviceManifest("above", "1", "clusterIP: 10.96.0.2, ports: [{name: p, port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 2147483647}}", "", "b"),
		},
		problems: []string{"above spec.sessionAffinityConfig.clientIP.timeoutSeconds", "below spec.sessionAffinityConfig.clientIP.timeoutSeconds"},
		tables:   []string{"update @affinity/test/below/tcp/p { ip saddr timeout 1s ", "update @affinity/test/above/tcp/p { ip saddr timeout 86400s "},
		packets:  []string{"client 10.96.0.1:80 10.244.1.2:8080", "client 10.96.0.1:80 10.244.1.2:8080", "client 10.96.0.2:80 10.244.1.3:8080"},
	},
	{
		name:     "a link-local cluster IP is served",
		services: []string{serviceManifest("web", "1", "clusterIP: 169.254.96.1, ports: [{name: p, port: 80}]", "", "a")},
		packets:  []string{"client 169.254.96.1:80 10.244.1.2:8080", "node 169.254.96.1:80 10.244.1.2:8080"},
	},
	{
		name: "source ranges with host bits and spaces",
		services: []string{serviceManifest("ranged", "1", `type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], ports: [{name: p, port: 80}],
  loadBalancerSourceRanges: [" 198.51.100.200/24", "2001:db8:51::77/64	"]`,
			"loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: '2001:db8:cb::1'}]}", "a")},
		packets: []string{
			"outside 203.0.113.1:80 10.244.1.2:8080 192.0.2.10", "client 203.0.113.1:80 dropped", "node 203.0.113.1:80 dropped",
			"outside [2001:db8:cb::1]:80 [fd00:10:244:1::2]:8080 2001:db8::10", "client [2001:db8:cb::1]:80 dropped",
		},
	},
	{
		name: "source ranges of one family all invalid: only load balancer addresses of that family are not served",
		services: []string{serviceManifest("ranged", "1", `type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"], ports: [{name: p, port: 80}],
  loadBalancerSourceRanges: [198.51.100.0/42, "2001:db8:51::/64"], externalIPs: [203.0.113.1, "2001:db8:cb::1", 203.0.113.2]`,
			"loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: '2001:db8:cb::1'}]}", "a")},
		problems: []string{"ranged spec.loadBalancerSourceRanges", "ranged spec.loadBalancerSourceRanges[0]"},
		packets: []string{ // the first two external IPs are load balancer addresses and do not bypass the source ranges
			"outside 203.0.113.1:80 dropped", "outside [2001:db8:cb::1]:80 [fd00:10:244:1::2]:8080", "client [2001:db8:cb::1]:80 dropped",
			"outside 203.0.113.2:80 10.244.1.2:8080", "client 10.96.0.1:80 10.244.1.2:8080",
		},
	},
	{
		name: "duplicate ports: the first one is served",
		services: []string{serviceManifest("twice", "1", `type: NodePort, clusterIP: 10.96.0.1, ports: [{name: p, port: 80, nodePort: 30001},
  {name: none, port: 80, nodePort: 30002}, {name: p, port: 81, nodePort: 30003}, {name: q, port: 82, nodePort: 30001}]`, "", "a")},
		problems: []string{"twice spec.ports[1].port", "twice spec.ports[2].name", "twice spec.ports[3].nodePort"},
		packets: []string{
			"client 10.96.0.1:80 10.244.1.2:8080", "client 10.96.0.1:81 refused", "client 10.96.0.1:82 refused",
			"outside 192.0.2.10:30001 10.244.1.2:8080", "outside 192.0.2.10:30002 refused", "outside 192.0.2.10:30003 refused",
			"node 192.0.2.10:30001 10.244.1.2:8080", "node 127.0.0.1:30001 refused", "node [::1]:30001 refused",
		},
	},
	{
		name: "external IP that is a node address: other ports of the node stay reachable",
		services: []string{
			serviceManifest("old", "1", `type: NodePort, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"],
  ports: [{name: p, port: 80, nodePort: 30001}]`, "", "a"),
			serviceManifest("new", "2", `clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2, "fd00:10:96::2"], externalIPs: [192.0.2.10, "2001:db8::10"], ports: [{name: p, port: 8000}, {name: x, port: 30001}]`, "", "b"),
		},
		conflicts: []string{"192.0.2.10:30001/tcp: old, not new", "[2001:db8::10]:30001/tcp: old, not new"},
		packets: []string{
			"outside 192.0.2.10:8000 10.244.1.3:8080 192.0.2.10", "client 192.0.2.10:8000 10.244.1.3:8080", "node 192.0.2.10:8000 10.244.1.3:8080",
			"outside [2001:db8::10]:8000 [fd00:10:244:1::3]:8080", "outside 192.0.2.10:30001 10.244.1.2:8080", "client 10.96.0.2:8000 10.244.1.3:8080",
			"outside 192.0.2.10:22 192.0.2.10:22 198.51.100.7", "client 192.0.2.10:22 192.0.2.10:22 10.244.1.9", "node 192.0.2.10:22 192.0.2.10:22",
			"outside [2001:db8::10]:22 [2001:db8::10]:22 2001:db8:51::7", "outside 192.0.2.10:23 refused",
		},
	},
	{
		name: "external IP that is another Service's cluster IP",
		services: []string{
			serviceManifest("old", "1", "clusterIP: 10.96.0.1, ports: [{name: p, port: 80}]", "", "a"),
			serviceManifest("new", "2", "clusterIP: 10.96.0.2, externalIPs: [10.96.0.1], ports: [{name: p, port: 80}, {name: p2, port: 443}]", "", "b"),
			serviceManifest("other", "3", "clusterIP: 10.96.0.3, externalIPs: [10.96.0.1], ports: [{name: p, port: 8443}]", "", "b"),
		},
		conflicts: []string{"10.96.0.1:80/tcp: old, not new"},
		packets: []string{
			"client 10.96.0.1:80 10.244.1.2:8080 10.244.1.9", "client 10.96.0.1:8443 10.244.1.3:8080 192.0.2.10",
			"client 10.96.0.1:443 refused", "client 10.96.0.1:81 refused", "client 10.96.0.2:80 10.244.1.3:8080 10.244.1.9",
		},
	},
}

// TestBadInput: objects with invalid fields are served as far as they make sense, and the problems are logged.
func TestBadInput(t *testing.T) {
	for _, c := range badInput {
		t.Run(c.name, c.run)
	}
}

// run programs the manifests on a node that listens at ports 22 and 8000, while a host outside listens at port 6443, and
// compares problems, conflicts and the fate of packets with those expected.
func (c manifestCase) run(t *testing.T) {
	m := newManifestNode(t, nft.IPv4, nft.IPv6)
	if c.settings != nil {
		m.configure(c.settings)
	}
	host, outside := &sandbox.Pod{Namespace: m.node}, &sandbox.Pod{Namespace: m.from["outside"]}
	for _, at := range []string{"192.0.2.10:22", "192.0.2.10:8000", "[2001:db8::10]:22", "[2001:db8::10]:8000"} {
		m.serve(host, netip.MustParseAddrPort(at))
	}
	for _, at := range []string{"198.51.100.7:6443", "[2001:db8:51::7]:6443"} {
		m.serve(outside, netip.MustParseAddrPort(at))
	}
	m.write("all.yaml", strings.Join(c.services, "")+nodeManifest("192.0.2.10", "2001:db8::10"))
	m.applyNext()
	var problems []string
	for _, match := range loggedProblem.FindAllStringSubmatch(m.log.String(), -1) {
		problems = append(problems, match[1]+" "+match[2])
	}
	if slices.Sort(problems); !slices.Equal(problems, c.problems) || strings.Count(m.log.String(), "\n") != len(problems) {
		t.Errorf("problems %q, want %q; log:\n%s", problems, c.problems, m.log.String())
	}
	if !slices.Equal(m.conflicts, c.conflicts) {
		t.Errorf("conflicts %q, want %q", m.conflicts, c.conflicts)
	}
	for _, text := range c.tables {
		if table := m.tables()[0].String(); !strings.Contains(table, text) {
			t.Errorf("the table does not contain %q:\n%s", text, table)
		}
	}
	m.expect(t, c.packets...)
}

// configure opens the directory again with other settings.
func (m *manifestNode) configure(settings func(*render.Node)) {
	m.t.Helper()
	settings(&m.facts)
	m.ruleset = render.NewRuleset(m.facts)
	m.source.Close()
	m.open()
}

// TestNodeWithoutAddresses: in a family without an address of the Node, node ports are served at all local addresses: those of
// interfaces, link-local ones and host routes of table local, but not at loopback addresses. They follow changes. Everything else
// does not depend on the Node's addresses.
func TestNodeWithoutAddresses(t *testing.T) {
	m := newManifestNode(t, nft.IPv4, nft.IPv6)
	m.write("web.yaml", serviceManifest("web", "1", `type: NodePort, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00:10:96::1"],
  externalIPs: [203.0.113.1], ports: [{name: p, port: 80, nodePort: 30001}]`, "", "a"))
	rest := []string{"client 10.96.0.1:80 10.244.1.2:8080", "node 10.96.0.1:80 10.244.1.2:8080", "outside 203.0.113.1:80 10.244.1.2:8080",
		"client [fd00:10:96::1]:80 [fd00:10:244:1::2]:8080"}
	all4 := []string{"outside 192.0.2.10:30001 10.244.1.2:8080 192.0.2.10", "client 169.254.1.1:30001 10.244.1.2:8080",
		"outside 203.0.113.8:30001 10.244.1.2:8080", "node 127.0.0.1:30001 refused", "outside 203.0.113.65:30001 refused"}
	all6 := []string{"outside [2001:db8::10]:30001 [fd00:10:244:1::2]:8080", "outside [2001:db8:cb::8]:30001 [fd00:10:244:1::2]:8080",
		"node [fe80::1%pod1]:30001 [fd00:10:244:1::2]:8080", "node [::1]:30001 refused"}
	primary4 := []string{"outside 192.0.2.10:30001 10.244.1.2:8080 192.0.2.10", "outside 203.0.113.8:30001 refused", "client 169.254.1.1:30001 refused"}
	primary6 := []string{"outside [2001:db8::10]:30001 [fd00:10:244:1::2]:8080", "outside [2001:db8:cb::8]:30001 refused"}
	m.addLocalRoutes("203.0.113.8/32", "203.0.113.64/26", "2001:db8:cb::8/128")
	m.configure(func(*render.Node) {}) // the source lists them when it opens
	for _, step := range []struct {
		addresses []string
		packets   []string // lines for expect
	}{
		{nil, slices.Concat(all4, all6)},
		{[]string{"2001:db8::10"}, slices.Concat(all4, primary6)},
		{[]string{"192.0.2.10"}, slices.Concat(primary4, all6)},
		{[]string{"192.0.2.10", "2001:db8::10"}, slices.Concat(primary4, primary6)},
		{nil, slices.Concat(all4, all6)},
	} {
		m.write("node.yaml", nodeManifest(step.addresses...))
		m.applyUntil(func(n render.Node) bool { return fmt.Sprint(n.IPs) == fmt.Sprint(step.addresses) })
		t.Logf("addresses %v", step.addresses)
		m.expect(t, slices.Concat(step.packets, rest)...)
	}
	m.expect(t, "outside 203.0.113.9:30001 dropped")
	m.addLocalRoutes("203.0.113.9/32")
	m.applyUntil(func(n render.Node) bool { return slices.Contains(n.Addresses, netip.MustParseAddr("203.0.113.9")) })
	m.expect(t, "outside 203.0.113.9:30001 10.244.1.2:8080")
}

// addLocalRoutes adds routes of type local to the node, which make the addresses local without an interface that has them.
func (m *manifestNode) addLocalRoutes(destinations ...string) {
	m.t.Helper()
	err := m.node.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, text := range destinations {
			dst, err := netlink.ParseIPNet(text)
			if err != nil {
				return err
			}
			route := netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
			if err := netlink.RouteAdd(&route); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// TestSingleStack: a dual-stack Service on a node with one family is served in that family. Its frontends of the other family
// have no endpoint: connections that reach the node are refused.
func TestSingleStack(t *testing.T) {
	const (
		spec = `type: LoadBalancer, clusterIP: %s, clusterIPs: [%s, %s], externalIPs: [203.0.113.1, "2001:db8:cb::1"],
  loadBalancerSourceRanges: [198.51.100.0/24, "2001:db8:51::/64"], ports: [{name: p, port: 80, nodePort: 30001}]`
		status = "loadBalancer: {ingress: [{ip: 203.0.113.2}, {ip: '2001:db8:cb::2'}]}"
		v4, v6 = "10.96.0.1", `"fd00:10:96::1"`
	)
	for _, c := range []struct {
		family  nft.Family
		spec    string
		node    string
		packets []string
	}{
		{nft.IPv4, fmt.Sprintf(spec, v4, v4, v6), "192.0.2.10", []string{
			"client 10.96.0.1:80 10.244.1.2:8080 10.244.1.9", "outside 203.0.113.1:80 10.244.1.2:8080 192.0.2.10",
			"outside 203.0.113.2:80 10.244.1.2:8080 192.0.2.10", "client 203.0.113.2:80 dropped", "outside 192.0.2.10:30001 10.244.1.2:8080 192.0.2.10",
			"client [fd00:10:96::1]:80 refused", "outside [2001:db8:cb::1]:80 refused",
		}},
		{nft.IPv6, fmt.Sprintf(spec, v6, v6, v4), "2001:db8::10", []string{
			"client [fd00:10:96::1]:80 [fd00:10:244:1::2]:8080 fd00:10:244:1::9", "outside [2001:db8:cb::1]:80 [fd00:10:244:1::2]:8080 2001:db8::10",
			"outside [2001:db8:cb::2]:80 [fd00:10:244:1::2]:8080 2001:db8::10", "client [2001:db8:cb::2]:80 dropped",
			"outside [2001:db8::10]:30001 [fd00:10:244:1::2]:8080 2001:db8::10", "client 10.96.0.1:80 refused", "outside 203.0.113.1:80 refused",
		}},
	} {
		t.Run(c.family.String(), func(t *testing.T) {
			m := newManifestNode(t, c.family)
			slice := map[nft.Family]string{nft.IPv4: "addressType: IPv6", nft.IPv6: "addressType: IPv4"}[c.family]
			parts := strings.Split(serviceManifest("web", "1", c.spec, status, "a"), "---\n")
			parts = slices.DeleteFunc(parts, func(p string) bool { return strings.Contains(p, slice) }) // no pod has such an address
			m.write("all.yaml", strings.Join(parts, "---\n")+nodeManifest(c.node))
			m.applyNext()
			if m.log.Len() > 0 {
				t.Errorf("the log is not empty:\n%s", m.log.String())
			}
			m.expect(t, c.packets...)
		})
	}
}
