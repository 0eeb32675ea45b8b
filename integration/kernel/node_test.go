package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/sandbox"
)

// lab is a node with pods, and the tables of a Ruleset in its kernel.
type testNode struct {
	t       testing.TB
	node    *sandbox.Namespace
	network *sandbox.Network
	kernel  *kernel.Conn
	ruleset *render.Ruleset
	facts   render.Node
}

// labNode is the node of the labs: pods of the cluster CIDRs are local sources.
func nodeFacts() render.Node {
	return render.Node{
		Name:         "node-a",
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48"),
		ServiceCIDRs: prefixes("10.96.0.0/16", "fd00:10:96::/112"),
		Addresses:    []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// newLab returns a lab without a network: a kernel to program.
func newTestNode(t testing.TB) *testNode {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	l := &testNode{t: t, node: ns, facts: nodeFacts()}
	l.ruleset = render.NewRuleset(l.facts)
	err = ns.Do(func() (err error) {
		l.kernel, err = kernel.Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.kernel.Close() })
	return l
}

// addNetwork gives the lab's node its addresses and the means to route.
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

// apply hands an update to the ruleset, carries out what follows and returns it. The first call reconciles.
func (l *testNode) apply(u render.Update) []nft.Change {
	l.t.Helper()
	u.Node = l.facts
	l.ruleset.Update(u)
	changes := l.ruleset.Changes()
	if err := l.kernel.Apply(changes, 0); err != nil {
		l.t.Fatal(err)
	}
	return changes
}

// reconcile compares the ruleset with what the kernel has and sends the difference.
func (l *testNode) reconcile() []nft.Change {
	l.t.Helper()
	have, generation, err := l.kernel.Read(render.TableIDs()...)
	if err != nil {
		l.t.Fatal(err)
	}
	changes := l.ruleset.Reconcile(have)
	if err := l.kernel.Apply(changes, generation); err != nil {
		l.t.Fatal(err)
	}
	return changes
}

// tables reads the kernel.
func (l *testNode) tables() []*nft.Table {
	l.t.Helper()
	tables, _, err := l.kernel.Read(render.TableIDs()...)
	if err != nil {
		l.t.Fatal(err)
	}
	return tables
}

// nft runs nft in the lab's namespace and returns what it prints. It is there, or the test fails: without its judgement
// there is no result.
func (l *testNode) nft(stdin string, args ...string) string {
	l.t.Helper()
	out, err := runNFT(l.node, stdin, args...)
	if err != nil {
		l.t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

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

// service is a Service of one port, in terms of addresses. Endpoints are on the lab's node unless they say otherwise.
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

// endpoint reads "ADDRESS:PORT", "ADDRESS:PORT remote" or "ADDRESS:PORT unready".
func endpoint(text string) render.Endpoint {
	at, kind, _ := strings.Cut(text, " ")
	e := render.Endpoint{AddrPort: netip.MustParseAddrPort(at), Node: "node-a", Ready: kind != "unready", Serving: kind != "unready"}
	if kind == "remote" {
		e.Node = "node-b"
	}
	return e
}

// pod adds a pod that answers on the given port, TCP and UDP, who it is and whom it saw.
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

// answer is what a pod said: who it is, and from where it was reached.
type answer struct {
	endpoint, source netip.AddrPort
}

// patience bounds every connection. What is refused or answered takes a small part of it; what is dropped takes it all.
const connectTimeout = 2 * time.Second

// connect opens a connection from a namespace and returns the answer.
func connect(ns *sandbox.Namespace, p nft.Protocol, laddr, frontend string, timeout time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
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
		return answer{}, fmt.Errorf("the peer is %s", c.RemoteAddr())
	}
	return readAnswer(c)
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
