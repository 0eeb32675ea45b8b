package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/report"
	"nfproxy/sandbox"
)

// testNode is a node with pods whose kernel holds the tables of a Ruleset.
type testNode struct {
	t       testing.TB
	node    *sandbox.Namespace
	network *sandbox.Network
	kernel  *kernel.Conn
	ruleset *render.Ruleset
	facts   render.Node
}

// nodeFacts returns the facts of a test node: its pods are the addresses in the cluster CIDRs.
func nodeFacts() render.Node {
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}
	return render.Node{
		Name:         "node-a",
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
		ServiceCIDRs: prefixes("10.96.0.0/16", "fd00:10:96::/112"),
		Addresses:    addresses,
		IPs:          addresses,
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// newTestNode returns a node without a network: a namespace to program.
func newTestNode(t testing.TB) *testNode {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	l := &testNode{t: t, node: ns, facts: nodeFacts()}
	l.ruleset = render.NewRuleset(l.facts)
	l.kernel = openKernel(t, ns)
	l.kernel.CounterKey = render.CounterKey
	l.readByKey(1)
	return l
}

// readByKey makes the node's connection read the slots of endpoints by key if there are at least from.
func (l *testNode) readByKey(from int) {
	l.t.Helper()
	err := l.node.Do(func() error {
		return l.kernel.FollowReferences(report.Slots(l.facts.Instance), from, report.SlotSets(l.facts.Instance)...)
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// openKernel opens a connection to nftables in a namespace, until the end of the test.
func openKernel(t testing.TB, ns *sandbox.Namespace) (c *kernel.Conn) {
	t.Helper()
	err := ns.Do(func() (err error) {
		c, err = kernel.Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// addNetwork gives the node its addresses and makes it a router.
func (l *testNode) addNetwork() *testNode {
	l.t.Helper()
	var err error
	l.network, err = sandbox.NewNetwork(l.node, netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { l.network.Close() })
	return l
}

// apply applies an update to the ruleset, and the changes that follow to the kernel, and returns the changes.
func (l *testNode) apply(u render.Update) []nft.Change {
	l.t.Helper()
	u.Node = l.facts
	l.ruleset.Update(u)
	changes := l.ruleset.Plan()
	if err := l.kernel.Apply(changes, 0); err != nil {
		l.t.Fatal(err)
	}
	l.ruleset.Accept()
	return changes
}

// reconcile compares the ruleset with the kernel's tables, applies the difference and returns it.
func (l *testNode) reconcile() []nft.Change {
	l.t.Helper()
	have, generation, err := l.kernel.Read(l.facts.Instance.TableIDs()...)
	if err != nil {
		l.t.Fatal(err)
	}
	l.ruleset.Observe(have)
	changes := l.ruleset.Plan()
	if err := l.kernel.Apply(changes, generation); err != nil {
		l.t.Fatal(err)
	}
	l.ruleset.Accept()
	return changes
}

// restart acts as a new process, which knows only the Services and the kernel's tables, and returns the changes it applies.
func (l *testNode) restart(services ...render.Service) []nft.Change {
	l.t.Helper()
	l.ruleset = render.NewRuleset(l.facts)
	l.ruleset.Update(render.Update{Node: l.facts, Services: services})
	return l.reconcile()
}

// tables returns the tables in the kernel.
func (l *testNode) tables() []*nft.Table {
	l.t.Helper()
	tables, _, err := l.kernel.Read(l.facts.Instance.TableIDs()...)
	if err != nil {
		l.t.Fatal(err)
	}
	return tables
}

// nft runs nft in the node's namespace and returns what it prints. The test fails if nft is not installed or fails.
func (l *testNode) nft(stdin string, args ...string) string {
	l.t.Helper()
	out, err := runNFT(l.node, stdin, args...)
	if err != nil {
		l.t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// runNFT runs nft in a namespace and returns what it prints.
func runNFT(ns *sandbox.Namespace, stdin string, args ...string) (string, error) {
	var out []byte
	err := ns.Do(func() (err error) { // a child is born in its parent thread's namespace
		cmd := exec.Command("nft", args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// service returns a Service with one cluster IP and one port. Function endpoint reads the endpoints.
func service(name string, p nft.Protocol, frontend string, endpoints ...string) render.Service {
	at := netip.MustParseAddrPort(frontend)
	port := render.Port{Name: "main", Protocol: p, Port: at.Port()}
	for _, e := range endpoints {
		port.Endpoints = append(port.Endpoints, endpoint(e))
	}
	return render.Service{
		ServiceName: render.ServiceName{Namespace: "test", Name: name},
		ClusterIPs:  []netip.Addr{at.Addr()},
		Ports:       []render.Port{port},
	}
}

// endpoint reads "ADDRESS:PORT", "ADDRESS:PORT remote" or "ADDRESS:PORT unready". It is on the test node unless it is remote.
func endpoint(text string) render.Endpoint {
	at, kind, _ := strings.Cut(text, " ")
	e := render.Endpoint{AddrPort: netip.MustParseAddrPort(at), Node: "node-a", Ready: kind != "unready", Serving: kind != "unready"}
	if kind == "remote" {
		e.Node = "node-b"
	}
	return e
}

// pod adds a pod that serves at a port of its addresses, or at none if the port is 0.
func (l *testNode) pod(name string, port uint16, addrs ...string) *sandbox.Pod {
	l.t.Helper()
	var parsed []netip.Addr
	for _, a := range addrs {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	p, err := l.network.AddPod(name, parsed...)
	if err != nil {
		l.t.Fatal(err)
	}
	if port == 0 {
		return p
	}
	for _, a := range parsed {
		l.serve(p, netip.AddrPortFrom(a, port))
	}
	return p
}

// serve makes a pod answer TCP and UDP clients with its own address and port and with theirs.
func (l *testNode) serve(p *sandbox.Pod, at netip.AddrPort) {
	l.t.Helper()
	stream, err := p.Listen("tcp", at.String())
	if err != nil {
		l.t.Fatal(err)
	}
	packets, err := p.ListenPacket("udp", at.String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { stream.Close(); packets.Close() })
	go func() {
		for {
			c, err := stream.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s\n", at, c.RemoteAddr())
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			packets.WriteTo(fmt.Appendf(nil, "%s %s\n", at, from), from)
		}
	}()
}

// answer is what serve sends: the endpoint and the source that the endpoint sees.
type answer struct {
	endpoint, source netip.AddrPort
}

// connectTimeout limits connections that must be answered or refused, which take a small part of it even on a loaded machine.
const connectTimeout = 10 * time.Second

// connections counts the UDP connections and the pings of all tests.
var connections atomic.Uint32

// unusedPort returns a local port for a UDP connection that none of the last 13,000 had. The kernel chooses at random, and then the
// conntrack entry of an earlier connection from the same port would decide instead of the rules. Tests that need a certain port
// choose another one.
func unusedPort() uint16 { return uint16(17_000 + connections.Add(1)%13_000) }

// connect opens a connection from a namespace and returns the answer. The timeout is that of the answer. Port 0 in laddr means any.
func connect(ns *sandbox.Namespace, p nft.Protocol, laddr, frontend string, timeout time.Duration) (answer, error) {
	limit := timeout
	if p == nft.UDP {
		laddr, limit = withUnusedPort(laddr, frontend), connectTimeout // the call sends nothing and waits for nothing
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := ns.Dial(ctx, p.String(), laddr, frontend)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if p == nft.UDP {
		if _, err := c.Write([]byte("?\n")); err != nil {
			return answer{}, err
		}
	}
	if c.RemoteAddr().String() != frontend {
		return answer{}, fmt.Errorf("connected to %s, want %s", c.RemoteAddr(), frontend)
	}
	return readAnswer(c)
}

// withUnusedPort returns a local address with an unused port in place of none.
func withUnusedPort(laddr, frontend string) string {
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if laddr != "" {
		from = netip.MustParseAddrPort(laddr)
	} else if netip.MustParseAddrPort(frontend).Addr().Is6() {
		from = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	if from.Port() != 0 {
		return laddr
	}
	return netip.AddrPortFrom(from.Addr(), unusedPort()).String()
}

func readAnswer(c net.Conn) (answer, error) {
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return answer{}, err
	}
	var endpoint, source string
	if _, err := fmt.Sscan(line, &endpoint, &source); err != nil {
		return answer{}, err
	}
	return answer{netip.MustParseAddrPort(endpoint), netip.MustParseAddrPort(source)}, nil
}
