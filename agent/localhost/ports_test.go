package localhost

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfproxy/logtest"
	"nfproxy/nft"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// The loopback addresses of these tests and the node port at them.
var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
	at4       = netip.AddrPortFrom(loopback4, nodePort)
	at6       = netip.AddrPortFrom(loopback6, nodePort)
)

const nodePort = 30080

// portsTest is a Ports with its log and the reports.
type portsTest struct {
	*Ports
	t   *testing.T
	log logtest.Buffer

	mu       sync.Mutex
	reported []string
	failed   map[nft.Family]int
}

func newPortsTest(t *testing.T) *portsTest {
	t.Helper()
	p := &portsTest{t: t, failed: make(map[nft.Family]int)}
	p.Ports = NewPorts(Hooks{
		Report: func(service render.ServiceName, message string, again bool) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if !again {
				p.reported = append(p.reported, service.String()+" "+message)
			}
		},
		Failed: func(f nft.Family) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.failed[f]++
		},
	}, slog.New(slog.NewTextHandler(&p.log, nil)))
	t.Cleanup(p.Close)
	return p
}

// set makes these Services the only ones.
func (p *portsTest) set(services ...render.Service) {
	u := render.Update{Node: render.Node{Name: "node-a", Loopback: []netip.Addr{loopback4, loopback6}}, Services: services}
	stays := make(map[render.ServiceName]bool)
	for _, s := range services {
		stays[s.ServiceName] = true
	}
	for name := range p.services {
		if !stays[name] {
			u.Removed = append(u.Removed, name)
		}
	}
	p.Take(u)
	p.Programmed()
}

// service returns a Service with a TCP node port and ready endpoints.
func service(name string, endpoints ...netip.AddrPort) render.Service {
	s := render.Service{ServiceName: render.ServiceName{Namespace: "ns1", Name: name},
		Ports: []render.Port{{Name: "http", Protocol: nft.TCP, Port: 80, NodePort: nodePort}}}
	for _, e := range endpoints {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, render.Endpoint{AddrPort: e, Ready: true})
	}
	return s
}

// backend is an endpoint that hands out the connections that it accepts.
type backend struct {
	netip.AddrPort
	accepted chan *net.TCPConn
}

func newBackend(t *testing.T, addr netip.Addr) backend {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	b := backend{l.Addr().(*net.TCPAddr).AddrPort(), make(chan *net.TCPConn, 2*maxPortConnections)}
	t.Cleanup(func() {
		l.Close()
		for conn := range b.accepted {
			conn.Close()
		}
	})
	go func() {
		defer close(b.accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.accepted <- conn.(*net.TCPConn)
		}
	}()
	return b
}

// newEcho returns the address of an endpoint that sends its name, and then what it receives, until its client sends no more.
func newEcho(t *testing.T, addr netip.Addr, name string) netip.AddrPort {
	t.Helper()
	b := newBackend(t, addr)
	go func() {
		for conn := range b.accepted {
			go func() {
				defer conn.Close()
				fmt.Fprintln(conn, name)
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return b.AddrPort
}

// dial opens a connection, until the end of the test.
func dial(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", at.String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// reached returns the name of the echo endpoint that answers a connection, or the error.
func reached(at netip.AddrPort) (string, error) {
	conn, err := net.DialTimeout("tcp", at.String(), patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func wantReached(t *testing.T, at netip.AddrPort, name string) {
	t.Helper()
	if got, err := reached(at); err != nil || got != name {
		t.Errorf("%s reaches %q, %v, want %q", at, got, err, name)
	}
}

func wantRefused(t *testing.T, at netip.AddrPort) {
	t.Helper()
	if got, err := reached(at); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s reaches %q, %v, want a refused connection", at, got, err)
	}
}

// wantReset fails the test unless the connection is reset: a clean end would look like the end of the data.
func wantReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes, then %v, want a reset", n, err)
	}
}

// patience is how long a test waits for an expected event.
const patience = 30 * time.Second

// within waits until the condition is true.
func within(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// TestServes: a node port is served at both loopback addresses while it has endpoints of the family, refused without one, and
// closed with its Service; the endpoints are those of the last update.
func TestServes(t *testing.T) {
	p := newPortsTest(t)
	a4, b4, a6 := newEcho(t, loopback4, "a4"), newEcho(t, loopback4, "b4"), newEcho(t, loopback6, "a6")
	wantRefused(t, at4)
	p.set(service("web", a4))
	wantReached(t, at4, "a4")
	wantRefused(t, at6)
	p.set(service("web", b4, a6))
	wantReached(t, at4, "b4")
	wantReached(t, at6, "a6")
	if v4, v6 := p.Open(); v4 != 1 || v6 != 1 {
		t.Errorf("%d and %d listeners are open", v4, v6)
	}
	p.set(service("web"))
	wantRefused(t, at4)
	wantRefused(t, at6)
	p.set(service("web", a4))
	wantReached(t, at4, "a4")
	p.set()
	wantRefused(t, at4)
	if log := p.log.String(); log != "" {
		t.Errorf("logged:\n%s", log)
	}
}

// TestBalances: without session affinity, connections reach all endpoints.
func TestBalances(t *testing.T) {
	p := newPortsTest(t)
	names := make(map[string]int)
	p.set(service("web", newEcho(t, loopback4, "a"), newEcho(t, loopback4, "b"), newEcho(t, loopback4, "c")))
	for n := 0; len(names) < 3; n++ {
		name, err := reached(at4)
		if names[name]++; err != nil || n == 200 {
			t.Fatalf("reached %v: %v", names, err)
		}
	}
}

// TestAffinity: with session affinity all connections reach one endpoint, until the last one is older than the timeout, the
// endpoint goes, or the timeout changes; other endpoints may come and go.
func TestAffinity(t *testing.T) {
	p := newPortsTest(t)
	a, b, c := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:80"), netip.MustParseAddrPort("10.0.0.3:80")
	set := func(timeout time.Duration, endpoints ...netip.AddrPort) *port {
		s := service("web", endpoints...)
		s.Affinity = timeout
		p.set(s)
		return p.ports[at4]
	}
	// others reports whether a connection, after the step, reaches another endpoint than first in one of many attempts.
	others := func(first netip.AddrPort, step func()) bool {
		for range 100 {
			step()
			if p.ports[at4].choose() != first {
				return true
			}
		}
		return false
	}
	one := set(time.Minute, a, b, c)
	now := time.Now()
	one.now = func() time.Time { return now }
	first := one.choose()
	if others(first, func() { now = now.Add(time.Minute) }) {
		t.Error("a connection within the timeout reaches another endpoint")
	}
	if others(first, func() { set(time.Minute, first, netip.MustParseAddrPort("10.0.0.9:80")) }) {
		t.Error("other endpoints change the choice")
	}
	if !others(first, func() { now = now.Add(time.Minute + 1) }) {
		t.Error("the endpoint stays after the timeout")
	}
	set(time.Minute, a, b, c)
	first = one.choose()
	if rest := set(time.Minute, b, c); first == a && !others(first, func() {}) || rest != one {
		t.Error("an endpoint that is gone is chosen")
	}
	set(time.Minute, a, b, c)
	first = one.choose()
	if !others(first, func() { set(2*time.Minute, a, b, c); set(time.Minute, a, b, c) }) {
		t.Error("the endpoint stays when the timeout changes")
	}
}

// TestPortTaken: a port that another process uses is reported once and counted at each attempt, served when it is free, and does
// not affect other ports.
func TestPortTaken(t *testing.T) {
	p := newPortsTest(t)
	other, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", nodePort))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	a4, a6 := newEcho(t, loopback4, "a4"), newEcho(t, loopback6, "a6")
	p.set(service("web", a4, a6))
	wantReached(t, at6, "a6")
	failures := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.failed[nft.IPv4]
	}
	within(t, "two attempts", func() bool { return failures() >= 2 })
	const message = "listen tcp4 127.0.0.1:30080: bind: address already in use"
	const want = `level=WARN msg="node port cannot be served at localhost yet" service=ns1/web address=127.0.0.1:30080 error="` + message + `"`
	if log := p.log.String(); strings.Count(log, want) != 1 || strings.Count(log, "\n") != 1 {
		t.Errorf("logged:\n%s", log)
	}
	if len(p.reported) != 1 || p.reported[0] != "ns1/web cannot listen at 127.0.0.1:30080: "+message {
		t.Errorf("reported %q", p.reported)
	}
	other.Close()
	within(t, "port is served", func() bool { name, err := reached(at4); return err == nil && name == "a4" })
	if log := p.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, `"node port is served at localhost now"`) {
		t.Errorf("logged:\n%s", log)
	}
	if p.failed[nft.IPv6] != 0 {
		t.Errorf("%d failures of IPv6", p.failed[nft.IPv6])
	}
}

// TestPrivilegedPort: the report about a port below 1024 names the capability.
func TestPrivilegedPort(t *testing.T) {
	p := newPortsTest(t)
	err := fmt.Errorf("listen: %w", os.NewSyscallError("bind", syscall.EACCES))
	p.Ports.failed(render.ServiceName{Namespace: "ns1", Name: "web"}, netip.MustParseAddrPort("127.0.0.1:80"), err, true)
	const want = "ns1/web cannot listen at 127.0.0.1:80: listen: bind: permission denied: ports below 1024 need CAP_NET_BIND_SERVICE"
	if len(p.reported) != 1 || p.reported[0] != want {
		t.Errorf("reported %q", p.reported)
	}
}

// TestOtherProtocols: node ports of UDP and SCTP are not served, and each is reported once, and again if it comes back.
func TestOtherProtocols(t *testing.T) {
	p := newPortsTest(t)
	s := service("dns")
	s.Ports = []render.Port{{Name: "dns", Protocol: nft.UDP, Port: 53, NodePort: 30053}, {Name: "none", Protocol: nft.UDP, Port: 54}}
	p.set(s)
	p.set(s)
	s.Ports = append(s.Ports, render.Port{Name: "sig", Protocol: nft.SCTP, Port: 55, NodePort: 30055})
	p.set(s)
	const (
		message = `level=WARN msg="a node port is not served at localhost: only TCP is" service=ns1/dns `
		udp     = message + "port=dns nodePort=30053 protocol=udp\n"
		sctp    = message + "port=sig nodePort=30055 protocol=sctp\n"
	)
	if log := p.log.String(); strings.Count(log, udp) != 1 || strings.Count(log, sctp) != 1 || strings.Count(log, "\n") != 2 {
		t.Errorf("logged:\n%s", log)
	}
	p.Take(render.Update{Removed: []render.ServiceName{s.ServiceName}})
	p.set(s)
	if log := p.log.String(); strings.Count(log, udp) != 2 {
		t.Errorf("logged:\n%s", log)
	}
	if v4, v6 := p.Open(); v4+v6 != 0 {
		t.Errorf("%d and %d listeners are open", v4, v6)
	}
}

// TestPortOfTwo: of two Services with one node port the older one gets it; the other is reported once and gets it when the first
// is gone. Connections of the first are reset then.
func TestPortOfTwo(t *testing.T) {
	p := newPortsTest(t)
	first, second := service("first", newEcho(t, loopback4, "first")), service("second", newEcho(t, loopback4, "second"))
	second.Created = time.Unix(2, 0)
	p.set(second)
	p.set(second, first)
	wantReached(t, at4, "first")
	second.Affinity = time.Minute
	p.set(first, second)
	const want = `msg="node port at localhost is taken by another Service" service=ns1/second address=127.0.0.1:30080 owner=ns1/first`
	if log := p.log.String(); strings.Count(log, want) != 1 || strings.Count(log, "\n") != 2 { // and one for ::1
		t.Errorf("logged:\n%s", log)
	}
	conn := dial(t, at4)
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.set(second)
	wantReset(t, conn)
	wantReached(t, at4, "second")
}

// TestClose: after Close no port is open, no connection and no goroutine is left.
func TestClose(t *testing.T) {
	p := newPortsTest(t)
	b := newBackend(t, loopback4)
	p.set(service("web", b.AddrPort, newEcho(t, loopback6, "a6")))
	conn := dial(t, at4)
	<-b.accepted
	p.Close()
	wantReset(t, conn)
	wantRefused(t, at4)
	wantRefused(t, at6)
	within(t, "all goroutines have ended", func() bool {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(stacks, "agent/localhost.(*") && !strings.Contains(stacks, "agent/listeners.")
	})
}

// TestPortsEdits: Services that are edited a thousand times do not fill the log, whether they conflict, have another protocol, or
// their node ports cannot be bound.
func TestPortsEdits(t *testing.T) {
	p := newPortsTest(t)
	node := render.Node{Name: "n", Loopback: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	for i := range 1000 {
		var both []render.Service
		for _, name := range []string{"first", "second"} {
			both = append(both, render.Service{ServiceName: render.ServiceName{Namespace: "ns", Name: name}, Ports: []render.Port{
				{Name: "tcp", Protocol: nft.TCP, Port: 80, NodePort: uint16(30000 + i)},
				{Name: "udp", Protocol: nft.UDP, Port: 80, NodePort: uint16(30000 + i)},
			}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}})
		}
		p.Take(render.Update{Node: node, Services: both})
		p.Programmed()
		at := netip.AddrPortFrom(node.Loopback[0], uint16(30000+i))
		p.Ports.failed(both[0].ServiceName, at, errors.New("in use"), true)
		p.bound(both[0].ServiceName, at)
	}
	for _, line := range []string{"is taken by another Service", "only TCP is", "cannot be served at localhost yet", "is served at localhost now"} {
		if n := len(p.log.Lines(line)); n < 1 || n > 2*ratelimit.Burst { // of two Services
			t.Errorf("%d lines: %s", n, line)
		}
	}
}
