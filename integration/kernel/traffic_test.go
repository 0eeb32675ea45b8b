package kernel

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"

	"nfproxy/sandbox"
)

// world is a lab with pods and the Services of one family, for the traffic tests.
type trafficNode struct {
	*testNode
	family nft.Family
	pods   map[string]*sandbox.Pod
	extra  map[string]string // more addresses
}

// The addresses of the world, per family. a, b and c are pods, local and remote; far-pod is another node's pod, outside is no
// pod. Both come in by one link, as by a node's uplink.
var trafficAddrs = map[nft.Family]map[string]string{
	nft.IPv4: {"client": "10.244.1.9", "a": "10.244.1.2", "b": "10.244.1.3", "c": "10.244.2.2", "far-pod": "10.244.2.9",
		"outside": "198.51.100.7", "node": "192.0.2.10", "web": "10.96.0.1", "one": "10.96.0.2", "empty": "10.96.0.3", "unready": "10.96.0.4",
		"self": "10.96.0.5", "free": "10.96.0.77"},
	nft.IPv6: {"client": "fd00:10:244:1::9", "a": "fd00:10:244:1::2", "b": "fd00:10:244:1::3", "c": "fd00:10:244:2::2",
		"far-pod": "fd00:10:244:2::9", "outside": "2001:db8:51::7", "node": "2001:db8::10", "web": "fd00:10:96::1", "one": "fd00:10:96::2",
		"empty": "fd00:10:96::3", "unready": "fd00:10:96::4", "self": "fd00:10:96::5", "free": "fd00:10:96::77"},
}

// The node's ends of the links to the client and to everywhere else: to the fourth and the fifth pod that newWorld makes.
const (
	clientLink  = "pod4"
	outsideLink = "pod5"
)

func (w *trafficNode) addr(name string) string {
	if addr, ok := w.extra[name]; ok {
		return addr
	}
	return trafficAddrs[w.family][name]
}

func (w *trafficNode) at(name string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(w.addr(name)), port).String()
}

func newTrafficNode(t *testing.T, f nft.Family) *trafficNode {
	t.Helper()
	w := &trafficNode{testNode: newTestNode(t).addNetwork(), family: f, pods: make(map[string]*sandbox.Pod),
		extra: make(map[string]string)}
	for _, name := range []string{"a", "b", "c"} {
		w.pods[name] = w.pod(name, 8080, w.addr(name))
	}
	w.pods["client"] = w.pod("client", 0, w.addr("client"))
	w.pods["outside"] = w.pod("outside", 0, w.addr("outside"), w.addr("far-pod"))
	w.pods["far-pod"] = w.pods["outside"]
	var services []render.Service
	for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
		services = append(services,
			service("web-"+p.String(), p, w.at("web", 80), w.at("a", 8080), w.at("b", 8080), w.at("c", 8080)+" remote"),
			service("one-"+p.String(), p, w.at("one", 80), w.at("a", 8080)),
			service("empty-"+p.String(), p, w.at("empty", 80)),
			service("unready-"+p.String(), p, w.at("unready", 80), w.at("a", 8080)+" unready", w.at("b", 8080)),
			service("self-"+p.String(), p, w.at("self", 80), w.at("a", 8080), w.at("c", 8080)+" remote"))
	}
	w.ruleset.Update(render.Update{Node: w.facts, Services: services})
	w.reconcile()
	return w
}

// from returns the namespace of a pod, or the node.
func (w *trafficNode) from(name string) *sandbox.Namespace {
	if name == "node" {
		return w.node
	}
	return w.pods[name].Namespace
}

// source is the local address of a connection from a pod, and the kernel's choice from the node.
func (w *trafficNode) source(name string) string {
	if name == "node" {
		return ""
	}
	return w.at(name, 0)
}

// behaviour is a row of what cluster IPs do.
type behaviour struct {
	name string
	from string
	to   string
	port uint16
	// reach is who may answer; every one of them must, in the course of the attempts.
	reach []string
	// source is whom the endpoint must see. What is not reached is refused at once or, with dropped, unanswered.
	source  string
	dropped bool
	// masqueraded is what Trace must say. The node's own connections show no difference in the packet.
	masqueraded bool
}

func behaviours() []behaviour {
	all := []string{"a", "b", "c"}
	return []behaviour{
		{name: "a pod reaches all endpoints, as itself", from: "client", to: "web", port: 80, reach: all, source: "client"},
		{name: "the node reaches all endpoints", from: "node", to: "web", port: 80, reach: all, source: "node", masqueraded: true},
		{name: "who is no pod is masqueraded", from: "outside", to: "web", port: 80, reach: all, source: "node", masqueraded: true},
		{name: "one endpoint", from: "client", to: "one", port: 80, reach: all[:1], source: "client"},
		{name: "an endpoint that reaches itself is masqueraded", from: "a", to: "one", port: 80, reach: all[:1], source: "node", masqueraded: true},
		{name: "an endpoint not ready is not used", from: "client", to: "unready", port: 80, reach: []string{"b"}, source: "client"},
		{name: "no endpoint: refused", from: "client", to: "empty", port: 80},
		{name: "no endpoint, from the node: refused", from: "node", to: "empty", port: 80},
		{name: "no endpoint, from outside: refused", from: "outside", to: "empty", port: 80},
		{name: "a port no Service has: refused", from: "client", to: "web", port: 81},
		{name: "a port no Service has, from the node: refused", from: "node", to: "web", port: 81},
		{name: "an address no Service has: dropped", from: "client", to: "free", port: 80, dropped: true},
		{name: "an address no Service has, from the node: dropped", from: "node", to: "free", port: 80, dropped: true},
	}
}

// TestClusterIP sends real connections for every row, both families, TCP and UDP, and asks Trace about the same: they
// must agree.
func TestClusterIP(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			w := newTrafficNode(t, f)
			for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
				for _, b := range behaviours() {
					t.Run(p.String()+"/"+b.name, func(t *testing.T) { w.check(t, p, b) })
				}
			}
		})
	}
}

func (w *trafficNode) check(t *testing.T, p nft.Protocol, b behaviour) {
	w.checkExplained(t, p, b)
	traced := w.simulate(p, b)
	if len(b.reach) == 0 {
		w.checkUnreached(t, p, b, traced)
		return
	}
	wanted := make(map[string]bool)
	for _, name := range b.reach {
		wanted[w.at(name, 8080)] = true
	}
	reached := make(map[string]bool)
	for i := range 60 { // three endpoints: one is missed in 60 fair draws once in ten thousand million runs
		if i >= 20 && len(reached) == len(wanted) { // and in 20 draws, one that must not answer, once in three thousand
			break
		}
		got, err := connect(w.from(b.from), p, w.source(b.from), w.at(b.to, b.port), connectTimeout)
		if err != nil {
			t.Fatal(err)
		}
		if !wanted[got.endpoint.String()] {
			t.Fatalf("%s answered", got.endpoint)
		}
		if got.source.Addr().String() != w.addr(b.source) {
			t.Errorf("%s saw %s, not %s (%s)", got.endpoint, got.source, b.source, w.addr(b.source))
		}
		path, ok := traced[got.endpoint.String()]
		if !ok || path.Masqueraded != b.masqueraded {
			t.Errorf("%s answered a connection from %s; Trace says %+v", got.endpoint, got.source, traced)
		}
		reached[got.endpoint.String()] = true
	}
	if len(reached) != len(wanted) || len(traced) != len(wanted) {
		t.Errorf("reached %v, traced %v, wanted %v", reached, traced, wanted)
	}
}

// prompt bounds refusals: TCP sends its SYN again after a second (TCP_TIMEOUT_INIT in include/net/tcp.h), and what is
// refused is refused at the first.
const refusalTimeout = time.Second

// checkUnreached: TCP is reset, UDP is answered by ICMP. A UDP socket of the node itself learns at once, from sendmsg,
// that its packet did not leave, whether it was refused or dropped (EPERM; ip_local_out in net/ipv4/ip_output.c).
func (w *trafficNode) checkUnreached(t *testing.T, p nft.Protocol, b behaviour, traced map[string]nft.Path) {
	timeout := connectTimeout
	if b.dropped {
		timeout = 200 * time.Millisecond
	}
	start := time.Now()
	got, err := connect(w.from(b.from), p, w.source(b.from), w.at(b.to, b.port), timeout)
	if took := time.Since(start); !b.dropped && took > refusalTimeout {
		t.Errorf("refused after %v", took)
	}
	outcome, want := traced[""].Outcome, nft.Unreachable
	switch {
	case err == nil:
		t.Fatalf("%s answered", got.endpoint)
	case b.dropped:
		want = nft.Dropped
		if !isTimeout(err) && !(p == nft.UDP && b.from == "node" && errors.Is(err, syscall.EPERM)) {
			t.Errorf("not dropped: %v", err)
		}
	case !errors.Is(err, syscall.ECONNREFUSED) && !(p == nft.UDP && b.from == "node" && errors.Is(err, syscall.EPERM)):
		t.Errorf("not refused: %v", err)
	case p == nft.TCP:
		want = nft.Reset
	}
	if len(traced) != 1 || outcome != want {
		t.Errorf("Trace says %+v, not %s", traced, want)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// packet is the first packet of a behaviour's connections, as the node sees it.
func (w *trafficNode) packet(p nft.Protocol, b behaviour) nft.Packet {
	packet := nft.Packet{Hook: nft.Prerouting, Protocol: p, Source: netip.MustParseAddrPort(w.at(b.from, 50000)),
		Destination: netip.MustParseAddrPort(w.at(b.to, b.port))}
	switch b.from {
	case "node":
		packet.Hook = nft.Output
	case "client":
		packet.Interface = clientLink
	case "outside", "far-pod":
		packet.Interface = outsideLink
	}
	return packet
}

// trace asks Trace, on the tables as the kernel has them, for every draw. Paths come by the endpoint they end at, ""
// for those that end before.
func (w *trafficNode) simulate(p nft.Protocol, b behaviour) map[string]nft.Path {
	w.t.Helper()
	packet := w.packet(p, b)
	paths := make(map[string]nft.Path)
	for _, table := range w.tables() {
		if table.Family != w.family {
			continue
		}
		for draws := uint32(1); packet.Draw < draws; packet.Draw++ {
			path := nft.Simulate(table, packet)
			draws = max(draws, path.Choices)
			key := ""
			if path.Outcome == nft.Accepted && path.Destination != packet.Destination {
				key = path.Destination.String()
			}
			paths[key] = path
		}
	}
	return paths
}

// TestUniform: every endpoint is as likely as any other. The bound is the quantile of the chi-square distribution with
// 6 degrees of freedom that a fair choice exceeds less than once in ten million runs.
func TestUniform(t *testing.T) {
	const endpoints, connections, bound = 7, 3500, 43.4
	l := newTestNode(t).addNetwork()
	var texts []string
	for i := range endpoints {
		addr := fmt.Sprintf("10.244.1.%d", i+2)
		l.pod(addr, 8080, addr)
		texts = append(texts, addr+":8080")
	}
	client := l.pod("client", 0, "10.244.9.9")
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", texts...)}})
	l.reconcile()
	served := make(map[netip.AddrPort]int)
	for range connections {
		got, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout)
		if err != nil {
			t.Fatal(err)
		}
		served[got.endpoint]++
	}
	if chi := chiSquare(served, endpoints, connections); chi > bound {
		t.Errorf("chi-square %.1f > %.1f: %v", chi, bound, served)
	}
	if got := l.tables()[0].Set("services").Elements[0].Counter; got == nil || got.Packets != connections {
		t.Errorf("the frontend's counter is %+v after %d connections", got, connections)
	}
}

func chiSquare(served map[netip.AddrPort]int, endpoints, connections int) float64 {
	expected := float64(connections) / float64(endpoints)
	chi := float64(endpoints-len(served)) * expected
	for _, n := range served {
		chi += math.Pow(float64(n)-expected, 2) / expected
	}
	return chi
}

// TestSwapUnderLoad: endpoints come, go and are replaced, one change after the other, and no connection fails.
func TestSwapUnderLoad(t *testing.T) {
	const swaps = 200
	l := newTestNode(t).addNetwork()
	var all []string
	for i := range 6 {
		addr := fmt.Sprintf("10.244.1.%d", i+2)
		l.pod(addr, 8080, addr)
		all = append(all, addr+":8080")
	}
	client := l.pod("client", 0, "10.244.9.9")
	update := func(i int) render.Update {
		endpoints := append([]string(nil), all[i%4:i%4+1+i%3]...)
		return render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", endpoints...)}}
	}
	l.ruleset.Update(update(0))
	l.reconcile()

	done, failed := make(chan struct{}), make(chan error, 1)
	connections := 0
	go func() {
		defer close(failed)
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout); err != nil {
				failed <- err
				return
			}
			connections++
		}
	}()
	for i := range swaps {
		l.apply(update(i))
		time.Sleep(2 * time.Millisecond) // let connections fall between the changes
	}
	close(done)
	if err := <-failed; err != nil {
		t.Errorf("after %d connections: %v", connections, err)
	}
	t.Logf("%d connections over %d changes", connections, swaps)
}

// TestFallbackSlot: what a packet sees when a commit falls between its two lookups. The frontend said three endpoints,
// the map has one. Every connection must still be answered; see docs/design/0002-fallback-slot.md.
func TestFallbackSlot(t *testing.T) {
	l := newTestNode(t).addNetwork()
	l.pod("a", 8080, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{
		service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080", "10.244.1.3:8080", "10.244.1.4:8080")}})
	l.reconcile()
	l.nft("", "delete", "element", "ip", "nfproxy", "endpoints", "{ 10.96.0.1 . tcp . 80 . 1, 10.96.0.1 . tcp . 80 . 2 }")
	for i := range 40 {
		if _, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}
