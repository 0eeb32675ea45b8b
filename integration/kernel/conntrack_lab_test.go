package kernel

import (
	"bufio"
	"context"
	"fmt"
	"io"
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

// flowLab is a lab that sweeps: what run does beside its loop is done here after every change, in the same order.
type flowLab struct {
	*testNode
	flows *ctnetlink.Conn
	index *render.FlowIndex
}

func newFlowLab(t testing.TB) *flowLab {
	t.Helper()
	l := &flowLab{testNode: newTestNode(t).addNetwork(), index: render.NewFlowIndex()}
	l.flows = openFlows(t, l.node)
	return l
}

func openFlows(t testing.TB, ns *sandbox.Namespace) *ctnetlink.Conn {
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

// start is the first round.
func (l *flowLab) start(services ...render.Service) []conntrack.Flow {
	l.t.Helper()
	u := render.Update{Node: l.facts, Services: services}
	l.ruleset.Update(u)
	l.index.Take(u, l.ruleset.Owner)
	l.index.Programmed(l.reconcile())
	return l.sweep()
}

// change is a round after that.
func (l *flowLab) change(u render.Update) []conntrack.Flow {
	l.t.Helper()
	u.Node = l.facts
	changes := l.apply(u)
	l.index.Take(u, l.ruleset.Owner)
	l.index.Programmed(changes)
	return l.sweep()
}

// sweep deletes what is stale and returns it.
func (l *flowLab) sweep() (deleted []conntrack.Flow) {
	l.t.Helper()
	due, _ := l.index.Next()
	for _, filter := range due.Filters {
		err := l.flows.List(filter, func(f conntrack.Flow) {
			if stale, why := l.index.Judge(f); stale {
				l.t.Logf("%s: %s", f, why)
				if err := l.flows.Delete(f); err != nil {
					l.t.Error(err)
				}
				deleted = append(deleted, f)
			}
		})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	l.index.CleanedUp(due)
	return deleted
}

// list returns the flows of the protocol in both families.
func (l *flowLab) list(p nft.Protocol) (all []conntrack.Flow) {
	l.t.Helper()
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		err := l.flows.List(conntrack.Filter{Family: family, Protocol: p}, func(f conntrack.Flow) { all = append(all, f) })
		if err != nil {
			l.t.Fatal(err)
		}
	}
	return all
}

// flowTo returns the one flow whose first packet went to the address.
func (l *flowLab) flowTo(p nft.Protocol, at string) (conntrack.Flow, bool) {
	l.t.Helper()
	for _, f := range l.list(p) {
		if f.Original.Destination.String() == at {
			return f, true
		}
	}
	return conntrack.Flow{}, false
}

// resolver asks and asks again from one port, as a DNS client does that never changes it.
type resolver struct {
	net.PacketConn
	to net.Addr
}

func newResolver(t testing.TB, ns *sandbox.Namespace, from, to string) *resolver {
	t.Helper()
	c, err := ns.ListenPacket("udp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &resolver{c, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))}
}

// ask sends a question and returns who answered, an error after the timeout.
func (r *resolver) ask(timeout time.Duration) (string, error) {
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
		return "", fmt.Errorf("%s answered", from)
	}
	who, _, _ := strings.Cut(string(b[:n]), " ")
	return who, nil
}

// silence is how long what should not be answered is waited for.
const silence = 100 * time.Millisecond

func (r *resolver) expect(t *testing.T, want string) {
	t.Helper()
	timeout := patience
	if want == "" {
		timeout = silence
	}
	got, err := r.ask(timeout)
	if got != want {
		t.Errorf("answered by %q (%v), not %q", got, err, want)
	}
}

// answerOnce lets a process of the node answer one packet.
func (l *flowLab) answerOnce(at string) {
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

// echo lets a pod send back what one connection brings.
func (l *flowLab) echo(p *sandbox.Pod, at string) {
	l.t.Helper()
	listener, err := p.Listen("tcp", at)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
}

// converse opens a TCP connection to an echo and returns what uses it once more.
func (l *flowLab) converse(client *sandbox.Pod, frontend string) (again func()) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, "tcp", "", frontend)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	lines := bufio.NewReader(c)
	again = func() {
		l.t.Helper()
		c.SetDeadline(time.Now().Add(patience))
		fmt.Fprintln(c, "?")
		if _, err := lines.ReadString('\n'); err != nil {
			l.t.Errorf("TCP: %v", err)
		}
	}
	again()
	return again
}
