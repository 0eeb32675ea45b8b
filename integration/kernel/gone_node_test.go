package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// goneDelay is the delay of goneNode, on a clock that the test advances.
const goneDelay = time.Minute

// goneNode is a node that deletes the entries of TCP connections to endpoints that are gone, as the agent does.
type goneNode struct {
	*testNode
	flows *ctnetlink.Conn
	gone  *render.GoneEndpoints
	now   time.Time
}

func newGoneNode(t *testing.T) *goneNode {
	t.Helper()
	l := &goneNode{testNode: newTestNode(t).addNetwork(), gone: render.NewGoneEndpoints(goneDelay), now: time.Unix(1000, 0)}
	l.flows = openConntrack(t, l.node)
	l.reconcile()
	return l
}

// program programs Services.
func (l *goneNode) program(services ...render.Service) {
	l.t.Helper()
	u := render.Update{Node: l.facts, Services: services}
	l.apply(u)
	l.gone.Take(u)
	l.gone.Programmed(l.now)
}

// pass lets time pass, runs the cleanup if one is due, and returns the flows that it deletes.
func (l *goneNode) pass(d time.Duration) (deleted []conntrack.Flow) {
	l.t.Helper()
	l.now = l.now.Add(d)
	c, due := l.gone.Begin(l.now)
	if !due {
		return nil
	}
	deleted = deleteFlows(l.t, l.flows, c.Filters, func(f conntrack.Flow) (bool, render.Reason) { return l.gone.Judge(c, f) })
	l.gone.CleanedUp(c)
	return deleted
}

// echoPod adds a Pod that sends back every line of its TCP connections until the end of the test.
func (l *goneNode) echoPod(name string, port uint16, addrs ...string) *sandbox.Pod {
	l.t.Helper()
	p := l.pod(name, 0, addrs...)
	for _, addr := range addrs {
		l.serveEcho(p, at(addr, port))
	}
	return p
}

// serveEcho makes a pod send back every line of its TCP connections until the end of the test.
func (l *testNode) serveEcho(p *sandbox.Pod, at string) {
	l.t.Helper()
	listener, err := p.Listen("tcp", at)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { echoLines(ctx, listener) })
	l.t.Cleanup(func() { end(); listener.Close(); serving.Wait() })
}

// echoLines sends back every line of every connection until the context ends.
func echoLines(ctx context.Context, listener net.Listener) {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		serving.Go(func() {
			defer stop()
			defer conn.Close()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				fmt.Fprintln(conn, lines.Text())
			}
		})
	}
}

// kill removes a Pod with its namespace and its link, so that no FIN and no reset leaves it.
func (l *goneNode) kill(p *sandbox.Pod) {
	l.t.Helper()
	if err := l.network.RemovePod(p); err != nil {
		l.t.Fatal(err)
	}
}

// unplug takes down the Pod's end of its link. The node's end stays, as the interface does that leads to another node.
func (l *goneNode) unplug(p *sandbox.Pod) {
	l.t.Helper()
	err := p.Do(func() error {
		routing, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer routing.Close()
		eth, err := routing.LinkByName("eth0")
		if err != nil {
			return err
		}
		return routing.LinkSetDown(eth)
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// longConnection is a TCP connection that stays open.
type longConnection struct {
	t testing.TB
	net.Conn
	lines *bufio.Reader
}

// open opens a connection that works.
func (l *goneNode) open(from *sandbox.Namespace, to string) longConnection {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", "", to)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	long := longConnection{l.t, c, bufio.NewReader(c)}
	long.works()
	return long
}

// end is how a connection answers a line.
type end string

const (
	lineEchoed end = "echo"
	connReset  end = "reset"
	connSilent end = "silence"
)

// send sends a line and returns what comes back within the time.
func (c longConnection) send(timeout time.Duration) end {
	c.t.Helper()
	c.SetDeadline(time.Now().Add(timeout))
	_, err := fmt.Fprintln(c, "hello")
	if err == nil {
		_, err = c.lines.ReadString('\n')
	}
	switch {
	case err == nil:
		return lineEchoed
	case errors.Is(err, unix.ECONNRESET):
		return connReset
	case errors.Is(err, os.ErrDeadlineExceeded):
		return connSilent
	}
	c.t.Errorf("unexpected: %v", err)
	return ""
}

func (c longConnection) expect(want end) {
	c.t.Helper()
	timeout := connectTimeout
	if want == connSilent {
		timeout = silence
	}
	if got := c.send(timeout); got != want {
		c.t.Errorf("the next line gets %q, want %q", got, want)
	}
}

func (c longConnection) works() { c.t.Helper(); c.expect(lineEchoed) }

// setLoose sets the sysctl nf_conntrack_tcp_loose of the node.
func (l *goneNode) setLoose(value string) {
	l.t.Helper()
	err := l.node.Do(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte(value), 0)
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// oneFlow fails the test unless exactly one flow was deleted, the one to the endpoint.
func (l *goneNode) oneFlow(deleted []conntrack.Flow, endpoint string) {
	l.t.Helper()
	if len(deleted) != 1 || deleted[0].Reply.Source != netip.MustParseAddrPort(endpoint) {
		l.t.Errorf("deleted %v, want the connection to %s", deleted, endpoint)
	}
}

// tcpFlows returns all TCP flows.
func (l *goneNode) tcpFlows() (all []conntrack.Flow) {
	l.t.Helper()
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		err := l.flows.List(conntrack.Filter{Family: family, Protocol: nft.TCP}, func(f conntrack.Flow) { all = append(all, f) })
		if err != nil {
			l.t.Fatal(err)
		}
	}
	return all
}
