package kernel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"

	"nfproxy/render"

	"nfproxy/sandbox"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
)

// flowNode is a node with a conntrack cleaner, which runs after every change as it does in the agent.
type flowNode struct {
	*testNode
	flows *ctnetlink.Conn
	index *render.FlowIndex
}

func newFlowNode(t testing.TB) *flowNode {
	t.Helper()
	l := &flowNode{testNode: newTestNode(t).addNetwork(), index: render.NewFlowIndex()}
	l.flows = openConntrack(t, l.node)
	return l
}

// openConntrack opens the conntrack table of a namespace.
func openConntrack(t testing.TB, ns *sandbox.Namespace) *ctnetlink.Conn {
	t.Helper()
	var flows *ctnetlink.Conn
	err := ns.Do(func() (err error) {
		flows, err = ctnetlink.Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { flows.Close() })
	return flows
}

// start programs Services for the first time and returns the flows that the cleanup after it deletes.
func (l *flowNode) start(services ...render.Service) []conntrack.Flow {
	l.t.Helper()
	u := render.Update{Node: l.facts, Services: services}
	l.ruleset.Update(u)
	l.index.Take(u, l.ruleset.Owner)
	l.index.Programmed(l.reconcile())
	return l.cleanUp()
}

// change applies an update and returns the flows that the cleanup after it deletes.
func (l *flowNode) change(u render.Update) []conntrack.Flow {
	l.t.Helper()
	u.Node = l.facts
	changes := l.apply(u)
	l.index.Take(u, l.ruleset.Owner)
	l.index.Programmed(changes)
	return l.cleanUp()
}

// cleanUp deletes the stale flows and returns them.
func (l *flowNode) cleanUp() (deleted []conntrack.Flow) {
	l.t.Helper()
	due, _ := l.index.Next()
	deleted = deleteFlows(l.t, l.flows, due.Filters, l.index.Judge)
	l.index.CleanedUp(due)
	return deleted
}

// deleteFlows deletes the flows that filters list and a function judges to be stale, and returns them.
func deleteFlows(t testing.TB, flows *ctnetlink.Conn, filters []conntrack.Filter, judge func(conntrack.Flow) (bool, render.Reason)) (deleted []conntrack.Flow) {
	t.Helper()
	for _, filter := range filters {
		err := flows.List(filter, func(f conntrack.Flow) {
			stale, why := judge(f)
			t.Logf("%s: %s: %v, %s", filter, f, stale, why)
			if !stale {
				return
			}
			if err := flows.Delete(f); err != nil {
				t.Error(err)
			}
			deleted = append(deleted, f)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return deleted
}

// list returns the flows of a protocol in both families.
func (l *flowNode) list(p nft.Protocol) (all []conntrack.Flow) {
	l.t.Helper()
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		err := l.flows.List(conntrack.Filter{Family: family, Protocol: p}, func(f conntrack.Flow) { all = append(all, f) })
		if err != nil {
			l.t.Fatal(err)
		}
	}
	return all
}

// flowTo returns the flow whose original destination is an address and port.
func (l *flowNode) flowTo(p nft.Protocol, at string) (conntrack.Flow, bool) {
	l.t.Helper()
	for _, f := range l.list(p) {
		if f.Original.Destination.String() == at {
			return f, true
		}
	}
	return conntrack.Flow{}, false
}

// udpClient sends all its packets from one port, like a DNS client that never changes its port.
type udpClient struct {
	net.PacketConn
	to net.Addr
}

func newUDPClient(t testing.TB, ns *sandbox.Namespace, from, to string) *udpClient {
	t.Helper()
	c, err := ns.ListenPacket("udp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &udpClient{c, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))}
}

// ask sends a packet and returns the endpoint that answers, or an error after the timeout.
func (r *udpClient) ask(timeout time.Duration) (string, error) {
	if _, err := r.WriteTo([]byte("?\n"), r.to); err != nil {
		return "", err
	}
	r.SetReadDeadline(time.Now().Add(timeout))
	b := make([]byte, 200)
	n, from, err := r.ReadFrom(b)
	if err != nil {
		return "", err
	}
	if from.String() != r.to.String() {
		return "", fmt.Errorf("%s answered, want %s", from, r.to)
	}
	who, _, _ := strings.Cut(string(b[:n]), " ")
	return who, nil
}

// silence is how long a test waits for an answer that must not come.
const silence = 100 * time.Millisecond

// keepSending sends a packet every millisecond until stop is called.
func (r *udpClient) keepSending(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			r.WriteTo([]byte("?\n"), r.to)
			time.Sleep(time.Millisecond)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// expect fails the test unless an endpoint answers, or no endpoint if it is empty.
func (r *udpClient) expect(t *testing.T, want string) {
	t.Helper()
	timeout := connectTimeout
	if want == "" {
		timeout = silence
	}
	got, err := r.ask(timeout)
	if got != want {
		t.Errorf("endpoint %q answered (%v), want %q", got, err, want)
	}
}

// answerOnce makes a process of the node answer one packet.
func (l *flowNode) answerOnce(at string) {
	l.t.Helper()
	packets, err := l.node.ListenPacket("udp", at)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { packets.Close() })
	go func() {
		if _, from, err := packets.ReadFrom(make([]byte, 10)); err == nil {
			packets.WriteTo([]byte("node \n"), from)
		}
	}()
}

// openEcho opens a TCP connection to serveEcho and returns a function that fails the test unless the connection still works.
func (l *flowNode) openEcho(client *sandbox.Pod, frontend string) (check func()) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	c, err := client.Dial(ctx, "tcp", "", frontend)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	check = func() {
		l.t.Helper()
		if err := exchange(c, connectTimeout); err != nil {
			l.t.Errorf("the TCP connection does not work: %v", err)
		}
	}
	check()
	return check
}
