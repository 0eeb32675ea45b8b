package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// trafficNode is a node with pods and Services of one family.
type trafficNode struct {
	*testNode
	family nft.Family
	pods   map[string]*sandbox.Pod
	extra  map[string]string // addresses besides trafficAddrs
}

// trafficAddrs are addresses by name. Pods a and b are local endpoints, c is a remote one; far-pod is a pod of another node and
// outside a host outside the cluster. The packets of both come in by one link, like those of a node's uplink.
var trafficAddrs = map[nft.Family]map[string]string{
	nft.IPv4: {"client": "10.244.1.9", "a": "10.244.1.2", "b": "10.244.1.3", "c": "10.244.2.2", "far-pod": "10.244.2.9",
		"outside": "198.51.100.7", "node": "192.0.2.10", "web": "10.96.0.1", "one": "10.96.0.2", "empty": "10.96.0.3", "unready": "10.96.0.4",
		"self": "10.96.0.5", "free": "10.96.0.77"},
	nft.IPv6: {"client": "fd00:10:244:1::9", "a": "fd00:10:244:1::2", "b": "fd00:10:244:1::3", "c": "fd00:10:244:2::2",
		"far-pod": "fd00:10:244:2::9", "outside": "2001:db8:51::7", "node": "2001:db8::10", "web": "fd00:10:96::1", "one": "fd00:10:96::2",
		"empty": "fd00:10:96::3", "unready": "fd00:10:96::4", "self": "fd00:10:96::5", "free": "fd00:10:96::77"},
}

// The node's ends of the links to the client and to the outside: to the fourth and the fifth pod of newTrafficNode.
const (
	clientLink  = "pod4"
	outsideLink = "pod5"
)

// addr returns the address with a name.
func (w *trafficNode) addr(name string) string {
	if addr, ok := w.extra[name]; ok {
		return addr
	}
	return trafficAddrs[w.family][name]
}

// at returns "address:port" for the address with a name.
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

// from returns the namespace of a pod or of the node.
func (w *trafficNode) from(name string) *sandbox.Namespace {
	if name == "node" {
		return w.node
	}
	return w.pods[name].Namespace
}

// source returns the local address of connections from a pod, or nothing for the node, where the kernel chooses it.
func (w *trafficNode) source(name string) string {
	if name == "node" {
		return ""
	}
	return w.at(name, 0)
}

// behaviour is what connections from a source to a destination must experience.
type behaviour struct {
	name string
	from string
	to   string
	port uint16
	// reach are the endpoints that may answer; each of them must answer at least one attempt. If it is empty, connections are
	// refused at once or, if dropped is set, get no answer.
	reach   []string
	dropped bool
	// source is the source that the endpoint must see.
	source string
	// masqueraded is what Simulate must return. Masquerading does not change the packets of the node's own connections.
	masqueraded bool
}

// behaviours returns the behaviours of cluster IPs.
func behaviours() []behaviour {
	all := []string{"a", "b", "c"}
	return []behaviour{
		{name: "a pod reaches all endpoints and keeps its source", from: "client", to: "web", port: 80, reach: all, source: "client"},
		{name: "the node reaches all endpoints", from: "node", to: "web", port: 80, reach: all, source: "node", masqueraded: true},
		{name: "a source that is not a pod is masqueraded", from: "outside", to: "web", port: 80, reach: all, source: "node", masqueraded: true},
		{name: "one endpoint", from: "client", to: "one", port: 80, reach: all[:1], source: "client"},
		{name: "an endpoint that connects to itself is masqueraded", from: "a", to: "one", port: 80, reach: all[:1], source: "node", masqueraded: true},
		{name: "an endpoint that is not ready is not used", from: "client", to: "unready", port: 80, reach: []string{"b"}, source: "client"},
		{name: "no endpoint: refused", from: "client", to: "empty", port: 80},
		{name: "no endpoint, from the node: refused", from: "node", to: "empty", port: 80},
		{name: "no endpoint, from outside: refused", from: "outside", to: "empty", port: 80},
		{name: "a port without a Service: refused", from: "client", to: "web", port: 81},
		{name: "a port without a Service, from the node: refused", from: "node", to: "web", port: 81},
		{name: "an address without a Service: dropped", from: "client", to: "free", port: 80, dropped: true},
		{name: "an address without a Service, from the node: dropped", from: "node", to: "free", port: 80, dropped: true},
	}
}

// TestClusterIP makes real connections for every behaviour of cluster IPs, in both families, by TCP and UDP. Simulate and Explain
// must agree with them.
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

// check makes connections and compares them, Explain and Simulate with a behaviour.
func (w *trafficNode) check(t *testing.T, p nft.Protocol, b behaviour) {
	w.checkExplained(t, p, b)
	simulated := w.simulate(p, b)
	if len(b.reach) == 0 {
		w.checkUnreached(t, p, b, simulated)
		return
	}
	wanted := make(map[string]bool)
	for _, name := range b.reach {
		wanted[w.at(name, 8080)] = true
	}
	reached := make(map[string]bool)
	for i := range 60 { // of three endpoints, 60 fair draws miss one with a probability below 10^-10
		if i >= 20 && len(reached) == len(wanted) { // 20 draws miss an endpoint that must not answer once in 3,000 runs
			break
		}
		got, err := connect(w.from(b.from), p, w.source(b.from), w.at(b.to, b.port), connectTimeout)
		if err != nil {
			t.Fatal(err)
		}
		if !wanted[got.endpoint.String()] {
			t.Fatalf("%s answered, want one of %v", got.endpoint, b.reach)
		}
		if got.source.Addr().String() != w.addr(b.source) {
			t.Errorf("%s saw %s, want %s (%s)", got.endpoint, got.source, b.source, w.addr(b.source))
		}
		path, ok := simulated[got.endpoint.String()]
		if !ok || path.Masqueraded != b.masqueraded {
			t.Errorf("%s answered a connection from %s; Simulate returns %+v", got.endpoint, got.source, simulated)
		}
		reached[got.endpoint.String()] = true
	}
	if len(reached) != len(wanted) || len(simulated) != len(wanted) {
		t.Errorf("reached %v, simulated %v, want %v", reached, simulated, wanted)
	}
}

// retransmittedSYNs returns how often TCP in a namespace has sent a SYN again, which it does after a second (TCP_TIMEOUT_INIT in
// include/net/tcp.h).
func retransmittedSYNs(t *testing.T, ns *sandbox.Namespace) string {
	t.Helper()
	var text []byte
	err := ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names, rest, _ := strings.Cut(string(text), "\n")
	values, _, _ := strings.Cut(rest, "\n")
	i := slices.Index(strings.Fields(names), "TCPSynRetrans")
	if i < 0 {
		t.Fatalf("no TCPSynRetrans in %s", names)
	}
	return strings.Fields(values)[i]
}

// checkUnreached makes a connection that must be refused or dropped and compares Simulate with it. TCP is refused by a reset, which
// answers the first SYN, UDP by an ICMP error. For a UDP socket of the node, sendmsg fails with EPERM if the packet is refused or dropped (ip_local_out in
// net/ipv4/ip_output.c).
func (w *trafficNode) checkUnreached(t *testing.T, p nft.Protocol, b behaviour, simulated map[string]nft.Path) {
	timeout := connectTimeout
	if b.dropped {
		timeout = 200 * time.Millisecond
	}
	before := retransmittedSYNs(t, w.from(b.from))
	got, err := connect(w.from(b.from), p, w.source(b.from), w.at(b.to, b.port), timeout)
	if after := retransmittedSYNs(t, w.from(b.from)); !b.dropped && after != before {
		t.Errorf("TCP has sent SYNs again: %s times before, %s times now", before, after)
	}
	outcome, want := simulated[""].Outcome, nft.Unreachable
	switch {
	case err == nil:
		t.Fatalf("%s answered, want no answer", got.endpoint)
	case b.dropped:
		want = nft.Dropped
		if !isTimeout(err) && !(p == nft.UDP && b.from == "node" && errors.Is(err, syscall.EPERM)) {
			t.Errorf("got error %v, want a timeout", err)
		}
	case !errors.Is(err, syscall.ECONNREFUSED) && !(p == nft.UDP && b.from == "node" && errors.Is(err, syscall.EPERM)):
		t.Errorf("got error %v, want %v", err, syscall.ECONNREFUSED)
	case p == nft.TCP:
		want = nft.Reset
	}
	if len(simulated) != 1 || outcome != want {
		t.Errorf("Simulate returns %+v, want %s", simulated, want)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// packet returns the first packet of a behaviour's connections, as the node sees it.
func (w *trafficNode) packet(p nft.Protocol, b behaviour) nft.Packet {
	packet := nft.Packet{Hook: nft.Prerouting, Protocol: p, Source: netip.MustParseAddrPort(w.at(b.from, 50000)),
		Destination: netip.MustParseAddrPort(w.at(b.to, b.port)), Local: func(a netip.Addr) bool { return slices.Contains(w.facts.Addresses, a) }}
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

// simulate returns the paths of a behaviour's packet through the kernel's tables, by the endpoint at which they
// end, or by "" if they end before.
func (w *trafficNode) simulate(p nft.Protocol, b behaviour) map[string]nft.Path {
	w.t.Helper()
	packet := w.packet(p, b)
	paths := make(map[string]nft.Path)
	for _, table := range w.tables() {
		if table.Family != w.family {
			continue
		}
		for _, end := range nft.SimulateAll(table, packet, 1<<16).Ends {
			key := ""
			if to := end.Path.To(packet.Destination); to.IsValid() {
				key = to.String()
			}
			paths[key] = end.Path
		}
	}
	return paths
}

// TestSwapUnderLoad: no connection fails while endpoints are added, removed and replaced, one change after another.
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
		time.Sleep(2 * time.Millisecond) // so that connections are made between the changes
	}
	close(done)
	if err := <-failed; err != nil {
		t.Errorf("after %d connections: %v", connections, err)
	}
	t.Logf("%d connections over %d changes", connections, swaps)
}

// TestFallbackSlot: connections succeed even if a commit falls between the two lookups of a packet. Here the frontend's verdict is
// for 300 endpoints but the map has one, as such a packet sees it: nearly all packets fall back to slot 0. See
// docs/design/0002-fallback-slot.md.
func TestFallbackSlot(t *testing.T) {
	l := newTestNode(t).addNetwork()
	l.pod("a", 8080, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	endpoints, removed := []string{"10.244.1.2:8080"}, []string{}
	for slot := 1; slot < 300; slot++ {
		endpoints = append(endpoints, fmt.Sprintf("10.244.2.2:%d", slot))
		removed = append(removed, fmt.Sprintf("10.96.0.1 . tcp . 80 . %d", slot))
	}
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", endpoints...)}})
	l.reconcile()
	l.nft("", "delete", "element", "ip", "nfproxy", "endpoints", "{ "+strings.Join(removed, ", ")+" }")
	for i := range 40 {
		if _, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}
