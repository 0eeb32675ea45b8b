package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// matrix says which endpoints answer and which source they see, for every kind of Service, address and source. C: all
// endpoints answer, L: those of this node; n: the source stays, m: it becomes the node's. The four cells of a column are the
// sources: a pod of this node, a pod of another node, which comes in by the uplink, the node itself, a host outside.
//
// The first, third and fourth cells follow kube-proxy's test TestInternalExternalMasquerade (pkg/proxy/nftables, v1.36), the
// second one follows its local detectors (pkg/proxy/util/localdetector.go). With a cluster CIDR every pod is a local source;
// with node-cidr, pod-interface and pod-prefix only the pods of this node are.
const matrix = `
mode            service   to cluster IP    to node port     to external IP   to load balancer
default         cluster   Cn Cn Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
default         external  Cn Cn Cm Cm      Cn Cn Cm Ln      Cn Cn Cm Ln      Cn Cn Cm Ln
default         internal  Ln Ln Lm Lm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
node-cidr       cluster   Cn Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
node-cidr       external  Cn Cm Cm Cm      Cn Ln Cm Ln      Cn Ln Cm Ln      Cn Ln Cm Ln
node-cidr       internal  Ln Lm Lm Lm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
pod-interface   cluster   Cn Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
pod-interface   external  Cn Cm Cm Cm      Cn Ln Cm Ln      Cn Ln Cm Ln      Cn Ln Cm Ln
pod-interface   internal  Ln Lm Lm Lm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
pod-prefix      cluster   Cn Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
pod-prefix      external  Cn Cm Cm Cm      Cn Ln Cm Ln      Cn Ln Cm Ln      Cn Ln Cm Ln
pod-prefix      internal  Ln Lm Lm Lm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
no-pod-cidr     cluster   Cn Cn Cn Cn      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
no-pod-cidr     external  Cn Cn Cn Cn      Ln Ln Cm Ln      Ln Ln Cm Ln      Ln Ln Cm Ln
no-pod-cidr     internal  Ln Ln Ln Ln      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
masquerade-all  cluster   Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
masquerade-all  external  Cm Cm Cm Cm      Cn Cn Cm Ln      Cn Cn Cm Ln      Cn Cn Cm Ln
masquerade-all  internal  Lm Lm Lm Lm      Cm Cm Cm Cm      Cm Cm Cm Cm      Cm Cm Cm Cm
`

// matrixModes are the ways to detect local sources, each with the protocol with which its cells are tested. Detection does not
// depend on the protocol.
var matrixModes = []struct {
	name     string
	protocol nft.Protocol
}{
	{"default", nft.TCP}, {"node-cidr", nft.TCP}, {"pod-interface", nft.TCP}, {"pod-prefix", nft.UDP}, {"no-pod-cidr", nft.UDP}, {"masquerade-all", nft.TCP},
}

// The columns of the matrix: each kind of address has a cell for each source.
var (
	matrixSources = []string{"client", "far-pod", "node", "outside"}
	matrixKinds   = []string{"cluster-ip", "node-port", "external-ip", "load-balancer"}
)

// matrixAddrs returns the addresses of the Services of the matrix and of those of TestFewEndpoints.
func matrixAddrs(f nft.Family) map[string]string {
	addrs := make(map[string]string)
	for i, service := range []string{"cluster", "external", "internal", "remote", "remote-internal", "none", "self", "ranged", "for-node"} {
		if f == nft.IPv4 {
			addrs[service+" cluster-ip"] = fmt.Sprintf("10.96.1.%d", i+1)
			addrs[service+" external-ip"] = fmt.Sprintf("203.0.113.%d", i+1)
			addrs[service+" load-balancer"] = fmt.Sprintf("203.0.113.%d", i+101)
			continue
		}
		addrs[service+" cluster-ip"] = fmt.Sprintf("fd00:10:96::1:%x", i+1)
		addrs[service+" external-ip"] = fmt.Sprintf("2001:db8:cb::%x", i+1)
		addrs[service+" load-balancer"] = fmt.Sprintf("2001:db8:cb::1:%x", i+1)
	}
	return addrs
}

// nodePorts are the node ports of the Services that have one.
var nodePorts = map[string]uint16{"cluster": 30001, "external": 30002, "internal": 30003, "remote": 30004, "none": 30006, "self": 30007, "ranged": 30008}

// newMatrixNode returns a node with the Services of the matrix, for one protocol.
func newMatrixNode(t *testing.T, f nft.Family, p nft.Protocol, mode string) *trafficNode {
	t.Helper()
	w := newTrafficNode(t, f)
	for name, addr := range matrixAddrs(f) {
		w.extra[name] = addr
	}
	switch mode {
	case "node-cidr": // as watcher sets it from the Node's podCIDRs: a and b are inside, c and the far pod are not
		w.facts.NodeCIDR, w.facts.ClusterCIDRs = true, prefixes("10.244.1.0/24", "fd00:10:244:1::/64")
	case "no-pod-cidr":
		w.facts.ClusterCIDRs = nil
	case "pod-interface":
		w.facts.PodInterface = clientLink
	case "pod-prefix":
		w.facts.PodInterface = clientLink + "*"
	case "masquerade-all":
		w.facts.MasqueradeAll = true
	}
	local := []string{w.at("a", 8080), w.at("b", 8080)}
	remote := w.at("c", 8080) + " remote"
	all := append(slices.Clone(local), remote)
	ranged := func(name, source string) render.Service {
		s := w.service(name, p, all...)
		bits := map[nft.Family]int{nft.IPv4: 24, nft.IPv6: 64}[f]
		s.SourceRanges = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(w.addr(source)), bits).Masked()}
		return s
	}
	external := func(s render.Service) render.Service { s.ExternalLocal = true; return s }
	internal := func(s render.Service) render.Service { s.InternalLocal = true; return s }
	w.ruleset.Update(render.Update{Node: w.facts, Services: []render.Service{
		w.service("cluster", p, all...),
		external(w.service("external", p, all...)),
		internal(w.service("internal", p, all...)),
		external(w.service("remote", p, remote)),
		internal(w.service("remote-internal", p, remote)),
		external(w.service("none", p)),
		external(w.service("self", p, local[0])),
		ranged("ranged", "outside"),
		ranged("for-node", "node"),
	}})
	w.reconcile()
	return w
}

// service returns a Service with an address of every kind.
func (w *trafficNode) service(name string, p nft.Protocol, endpoints ...string) render.Service {
	s := service("matrix-"+name, p, w.at(name+" cluster-ip", 80), endpoints...)
	s.ExternalIPs = []netip.Addr{netip.MustParseAddr(w.addr(name + " external-ip"))}
	s.LoadBalancerIPs = []netip.Addr{netip.MustParseAddr(w.addr(name + " load-balancer"))}
	s.Ports[0].NodePort = nodePorts[name]
	return s
}

// cells returns the cells of a mode in the matrix as behaviours.
func cells(t *testing.T, mode string) []behaviour {
	t.Helper()
	var all []behaviour
	for line := range strings.Lines(matrix) {
		fields := strings.Fields(line)
		if len(fields) != 2+len(matrixKinds)*len(matrixSources) || fields[0] != mode {
			continue
		}
		for i, cell := range fields[2:] {
			from, kind := matrixSources[i%len(matrixSources)], matrixKinds[i/len(matrixSources)]
			b := behaviour{name: fmt.Sprintf("%s/%s/from %s", fields[1], kind, from), from: from, reach: []string{"a", "b", "c"}, source: from}
			b.to, b.port = target(fields[1], kind)
			if cell[0] == 'L' {
				b.reach = b.reach[:2]
			}
			if b.masqueraded = cell[1] == 'm'; b.masqueraded {
				b.source = "node"
			}
			all = append(all, b)
		}
	}
	if len(all) != 48 {
		t.Fatalf("mode %s has %d cells, want 48", mode, len(all))
	}
	return all
}

// target returns the name and the port of a Service's address of a kind.
func target(service, kind string) (to string, port uint16) {
	if kind == "node-port" {
		return "node", nodePorts[service]
	}
	return service + " " + kind, 80
}

// fewEndpoints returns the behaviours of Services that do not serve all sources.
func fewEndpoints() []behaviour {
	rows := []behaviour{
		{name: "internal policy Local, no local endpoint: dropped", from: "client", to: "remote-internal cluster-ip", port: 80, dropped: true},
		{name: "source range: the node is outside it, dropped", from: "node", to: "ranged load-balancer", port: 80, dropped: true},
		{name: "source range: a pod is outside it, dropped", from: "client", to: "ranged load-balancer", port: 80, dropped: true},
		{name: "source range: a host inside it is admitted", from: "outside", to: "ranged load-balancer", port: 80,
			reach: []string{"a", "b", "c"}, source: "node", masqueraded: true},
		{name: "source range: does not apply to external IPs", from: "client", to: "ranged external-ip", port: 80,
			reach: []string{"a", "b", "c"}, source: "node", masqueraded: true},
		{name: "source range: does not apply to node ports", from: "client", to: "node", port: nodePorts["ranged"],
			reach: []string{"a", "b", "c"}, source: "node", masqueraded: true},
		{name: "source range: the node is inside it, admitted", from: "node", to: "for-node load-balancer", port: 80,
			reach: []string{"a", "b", "c"}, source: "node", masqueraded: true},
		{name: "source range of the node: a host outside it is dropped", from: "outside", to: "for-node load-balancer", port: 80, dropped: true},
	}
	for _, kind := range []string{"node-port", "external-ip", "load-balancer"} {
		for _, from := range matrixSources {
			to, port := target("remote", kind)
			b := behaviour{name: "external policy Local, no local endpoint/" + kind + "/" + from, from: from, to: to, port: port,
				reach: []string{"c"}, source: from, masqueraded: from == "node"}
			if from == "outside" {
				b.reach, b.dropped = nil, true
			}
			rows = append(rows, b)
			to, port = target("none", kind)
			rows = append(rows, behaviour{name: "no endpoint: refused/" + kind + "/" + from, from: from, to: to, port: port})
		}
		to, port := target("self", kind)
		rows = append(rows, behaviour{name: "an endpoint connects to itself/" + kind, from: "a", to: to, port: port,
			reach: []string{"a"}, source: "node", masqueraded: true})
	}
	return rows
}

// TestMatrix makes real connections for every cell, in both families; Simulate and Explain must agree with them.
func TestMatrix(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, mode := range matrixModes {
			t.Run(fmt.Sprintf("%s/%s/%s", f, mode.name, mode.protocol), func(t *testing.T) {
				w := newMatrixNode(t, f, mode.protocol, mode.name)
				for _, b := range cells(t, mode.name) {
					t.Run(b.name, func(t *testing.T) { w.check(t, mode.protocol, b) })
				}
			})
		}
	}
}

// TestFewEndpoints: which connections are refused and which are dropped if a Service has few endpoints or source ranges.
func TestFewEndpoints(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			t.Run(fmt.Sprintf("%s/%s", f, p), func(t *testing.T) {
				w := newMatrixNode(t, f, p, "default")
				for _, b := range fewEndpoints() {
					t.Run(b.name, func(t *testing.T) { w.check(t, p, b) })
				}
			})
		}
	}
}
