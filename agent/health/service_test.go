package health

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/logtest"
	"nfproxy/ratelimit"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// The node's addresses in these tests.
var (
	node4 = netip.MustParseAddr("192.0.2.10")
	node6 = netip.MustParseAddr("2001:db8::10")
)

// healthPort is a health check node port.
const healthPort = 30100

// addNodeAddresses gives this network namespace the node's addresses until the test ends, and returns them.
func addNodeAddresses(t *testing.T) []netip.Addr {
	t.Helper()
	node, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(node, node4, node6)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(network.Close(), node.Close()); err != nil {
			t.Error(err)
		}
	})
	return []netip.Addr{node4, node6}
}

// portsTest is a ServicePorts with the health that it reports and its log.
type portsTest struct {
	*ServicePorts
	healthy atomic.Bool
	log     logtest.Buffer
}

func newPortsTest(t *testing.T) *portsTest {
	t.Helper()
	h := &portsTest{}
	h.healthy.Store(true)
	h.ServicePorts = NewServicePorts(h.healthy.Load, func(render.ServiceName, string, bool) {}, slog.New(slog.NewTextHandler(&h.log, nil)))
	t.Cleanup(h.Close)
	return h
}

func check(name string, port uint16, endpoints int) render.HealthCheck {
	part := render.FamilyCheck{Served: true, LocalEndpoints: endpoints}
	return render.HealthCheck{Service: render.ServiceName{Namespace: "ns1", Name: name}, Port: port, IPv4: part, IPv6: part}
}

// date matches the header line that differs between responses.
var date = regexp.MustCompile("(?m)^Date: .* GMT\r\n")

// request returns the response of an address and port as sent over the wire, without its date.
func request(addr netip.Addr, port uint16, path string) (string, error) {
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, port).String(), patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", path)
	text, err := io.ReadAll(conn)
	return date.ReplaceAllString(string(text), ""), err
}

// response returns the expected response, byte for byte.
func response(status, name string, endpoints int, healthy bool) string {
	body := fmt.Sprintf(`{
	"service": {
		"namespace": "ns1",
		"name": "%s"
	},
	"localEndpoints": %d,
	"serviceProxyHealthy": %v
}`, name, endpoints, healthy)
	header := []string{
		"HTTP/1.1 " + status,
		"Content-Type: application/json",
		"X-Content-Type-Options: nosniff",
		fmt.Sprintf("X-Load-Balancing-Endpoint-Weight: %d", endpoints),
		fmt.Sprintf("Content-Length: %d", len(body)),
		"Connection: close",
	}
	return strings.Join(header, "\r\n") + "\r\n\r\n" + body
}

func wantPortResponse(t *testing.T, addr netip.Addr, port uint16, path, want string) {
	t.Helper()
	got, err := request(addr, port, path)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%s port %d: %v (-want +got):\n%s", addr, port, err, diff)
	}
}

func wantRefused(t *testing.T, addr netip.Addr, port uint16) {
	t.Helper()
	if got, err := request(addr, port, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s port %d: %v, want a refused connection\n%s", addr, port, err, got)
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

const (
	ok200  = "200 OK"
	bad503 = "503 Service Unavailable"
)

// TestHealthAnswers: responses have the expected bytes and show the current endpoints and health.
func TestHealthAnswers(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	for _, step := range []struct {
		endpoints int
		healthy   bool
		status    string
	}{{1, true, ok200}, {12, true, ok200}, {0, true, bad503}, {3, false, bad503}, {0, false, bad503}, {1, true, ok200}} {
		h.healthy.Store(step.healthy)
		h.Set([]render.HealthCheck{check("svc1", healthPort, step.endpoints)}, addrs)
		for _, addr := range addrs {
			for _, path := range []string{"/", "/healthz", "/any/path?at=all"} {
				wantPortResponse(t, addr, healthPort, path, response(step.status, "svc1", step.endpoints, step.healthy))
			}
		}
	}
	wantRefused(t, netip.MustParseAddr("127.0.0.1"), healthPort)
	wantRefused(t, netip.IPv6Loopback(), healthPort)
}

// TestServicePortsTolerance: the ports answer 200 while an update is not programmed, until it is as late as /livez tolerates,
// and again when it is programmed. The eligibility of the node has no effect.
func TestServicePortsTolerance(t *testing.T) {
	addrs := addNodeAddresses(t)
	var clock atomic.Int64 // in nanoseconds since the start
	n := &Node{now: func() time.Time { return proxyStart.Add(time.Duration(clock.Load())) }, lastUpdated: proxyStart}
	p := NewServicePorts(n.Healthy, func(render.ServiceName, string, bool) {}, slog.New(slog.DiscardHandler))
	t.Cleanup(p.Close)
	n.Programmed(proxyStart)
	p.Set([]render.HealthCheck{check("svc1", healthPort, 1)}, addrs)
	for _, step := range []struct {
		at      time.Duration
		do      func(at time.Time)
		healthy bool
	}{
		{time.Hour, func(time.Time) {}, true},
		{time.Hour, n.Queued, true},
		{time.Hour + 30*time.Second, n.Queued, true},
		{time.Hour + 60*time.Second - 1, n.Queued, true},
		{time.Hour + 60*time.Second, func(time.Time) {}, false},
		{2 * time.Hour, n.Queued, false},
		{2 * time.Hour, n.Programmed, true},
		{3 * time.Hour, func(time.Time) { n.SetEligible(true) }, true},
		{3 * time.Hour, func(time.Time) { n.SetEligible(false) }, true},
	} {
		clock.Store(int64(step.at))
		step.do(proxyStart.Add(step.at))
		status, live := ok200, http.StatusOK
		if !step.healthy {
			status, live = bad503, http.StatusServiceUnavailable
		}
		wantPortResponse(t, node4, healthPort, "/", response(status, "svc1", 1, step.healthy))
		if code, _ := n.livez(); code != live {
			t.Errorf("after %v: /livez is %d", step.at, code)
		}
	}
}

// TestServicePortsKeepConnections: a connection stays open when the number of endpoints changes, and is closed with its Service.
func TestServicePortsKeepConnections(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	h.Set([]render.HealthCheck{check("svc1", healthPort, 1)}, addrs)
	conn, err := net.Dial("tcp4", netip.AddrPortFrom(node4, healthPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	for n := range 3 {
		h.Set([]render.HealthCheck{check("svc1", healthPort, n)}, addrs)
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: node\r\n\r\n")
		var got strings.Builder
		for !strings.HasSuffix(got.String(), "\n}") {
			buf := make([]byte, 4096)
			read, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got.Write(buf[:read])
		}
		if want := fmt.Sprintf("X-Load-Balancing-Endpoint-Weight: %d\r\n", n); !strings.Contains(got.String(), want) {
			t.Errorf("no %q in\n%s", want, got.String())
		}
	}
	h.Set(nil, addrs)
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open: %v", err)
	}
}

// TestHealthServersFollow: from any state, the servers are those for the Services and addresses of the last Set.
func TestHealthServersFollow(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	states := []struct {
		checks []render.HealthCheck
		addrs  []netip.Addr
	}{
		{nil, nil},
		{[]render.HealthCheck{check("a", healthPort, 1)}, addrs},
		{[]render.HealthCheck{check("a", healthPort, 2), check("b", healthPort+1, 0)}, addrs},
		{[]render.HealthCheck{check("b", healthPort, 3)}, addrs[:1]},
		{[]render.HealthCheck{check("b", healthPort+1, 3), check("a", healthPort, 1)}, addrs[1:]},
		{[]render.HealthCheck{check("a", healthPort+1, 1)}, nil},
		{nil, addrs},
	}
	random := rand.New(rand.NewPCG(1, 2)) // from any state to any state
	for range 10 * len(states) {
		s := states[random.IntN(len(states))]
		h.Set(s.checks, s.addrs)
		for _, addr := range addrs {
			for _, port := range []uint16{healthPort, healthPort + 1} {
				served := false
				for _, c := range s.checks {
					if c.Port != port || !strings.Contains(fmt.Sprint(s.addrs), addr.String()) {
						continue
					}
					served = true
					status := ok200
					if c.IPv4.LocalEndpoints == 0 {
						status = bad503
					}
					wantPortResponse(t, addr, port, "/", response(status, c.Service.Name, c.IPv4.LocalEndpoints, true))
				}
				if !served {
					wantRefused(t, addr, port)
				}
			}
		}
	}
	if h.log.String() != "" {
		t.Errorf("logged:\n%s", h.log.String())
	}
}

// TestServicePortsWildcard: at the wildcard address of a family, the port is served at all addresses of this family and at no other.
// The servers can move from one address to the wildcard address and back.
func TestServicePortsWildcard(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	loopback4, loopback6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	checks := []render.HealthCheck{check("svc1", healthPort, 1)}
	checks[0].IPv6.LocalEndpoints = 2
	for _, step := range []struct {
		at        []netip.Addr
		four, six []netip.Addr // where it is served
		notServed []netip.Addr
	}{
		{addrs, []netip.Addr{node4}, []netip.Addr{node6}, []netip.Addr{loopback4, loopback6}},
		{[]netip.Addr{any4, node6}, []netip.Addr{node4, loopback4}, []netip.Addr{node6}, []netip.Addr{loopback6}},
		{[]netip.Addr{any6, node4}, []netip.Addr{node4}, []netip.Addr{node6, loopback6}, []netip.Addr{loopback4}},
		{[]netip.Addr{any4, any6}, []netip.Addr{node4, loopback4}, []netip.Addr{node6, loopback6}, nil},
		{[]netip.Addr{any6}, nil, []netip.Addr{node6, loopback6}, []netip.Addr{node4, loopback4}},
		{addrs, []netip.Addr{node4}, []netip.Addr{node6}, []netip.Addr{loopback4, loopback6}},
	} {
		h.Set(checks, step.at)
		for _, addr := range step.four {
			wantPortResponse(t, addr, healthPort, "/", response(ok200, "svc1", 1, true))
		}
		for _, addr := range step.six {
			wantPortResponse(t, addr, healthPort, "/", response(ok200, "svc1", 2, true))
		}
		for _, addr := range step.notServed {
			wantRefused(t, addr, healthPort)
		}
	}
	if h.log.String() != "" {
		t.Errorf("logged:\n%s", h.log.String())
	}
}

// TestHealthPortTaken: a port in use by another process is reported once and bound when it is free; meanwhile the other
// address is served.
func TestHealthPortTaken(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	at := netip.AddrPortFrom(node4, healthPort)
	other, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for n := range 3 {
		h.Set([]render.HealthCheck{check("svc1", healthPort, n+1)}, addrs)
	}
	wantPortResponse(t, node6, healthPort, "/", response(ok200, "svc1", 3, true))
	const want = `level=WARN msg="health check node port cannot be served yet" service=ns1/svc1 address=192.0.2.10:30100 ` +
		`error="listen tcp4 192.0.2.10:30100: bind: address already in use"`
	if log := h.log.String(); strings.Count(log, want) != 1 || strings.Count(log, "\n") != 1 {
		t.Errorf("logged:\n%s", log)
	}
	other.Close()
	within(t, "port is served", func() bool {
		got, err := request(node4, healthPort, "/")
		return err == nil && got == response(ok200, "svc1", 3, true)
	})
	if log := h.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, `"health check node port is served now"`) {
		t.Errorf("logged:\n%s", log)
	}
}

// TestHealthPortOfOthers: a Service cannot take the port of a server that listens at all addresses, such as nfproxy's own and
// the kubelet's, and that server keeps serving.
func TestHealthPortOfOthers(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	listener, err := net.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), healthPort).String())
	if err != nil {
		t.Fatal(err)
	}
	other := newPortServer(http.NotFoundHandler(), newConnections(), slog.New(slog.DiscardHandler))
	go func() { _ = other.Serve(listener) }() // until it is closed
	defer other.Close()
	h.Set([]render.HealthCheck{check("svc1", healthPort, 1)}, addrs[:1])
	if log := h.log.String(); !strings.Contains(log, "address already in use") {
		t.Errorf("logged:\n%s", log)
	}
	if got, err := request(node4, healthPort, "/"); err != nil || !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("the other server answers %q: %v", got, err)
	}
}

// TestHealthPortOfTwo: of two Services with the same port, the one that precedes gets it; the other is reported once and gets it
// when the first is gone.
func TestHealthPortOfTwo(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	first, second := check("first", healthPort, 1), check("second", healthPort, 2)
	h.Set([]render.HealthCheck{first, second}, addrs)
	second.IPv4.LocalEndpoints, second.IPv6.LocalEndpoints = 5, 5
	h.Set([]render.HealthCheck{second, first}, addrs)
	wantPortResponse(t, node4, healthPort, "/", response(ok200, "first", 1, true))
	const want = `msg="health check node port is taken by another Service" service=ns1/second port=30100 owner=ns1/first`
	if log := h.log.String(); strings.Count(log, want) != 1 || strings.Count(log, "\n") != 1 {
		t.Errorf("logged:\n%s", log)
	}
	h.Set([]render.HealthCheck{second}, addrs)
	wantPortResponse(t, node4, healthPort, "/", response(ok200, "second", 5, true))
}

// TestServicePortsClose: after Close no port is open and no goroutine is left.
func TestServicePortsClose(t *testing.T) {
	h, addrs := newPortsTest(t), addNodeAddresses(t)
	h.Set([]render.HealthCheck{check("a", healthPort, 1), check("b", healthPort+1, 1)}, addrs)
	idle, err := net.Dial("tcp4", netip.AddrPortFrom(node4, healthPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	wantPortResponse(t, node4, healthPort, "/", response(ok200, "a", 1, true)) // accepted after the idle connection
	h.Close()
	for _, addr := range addrs {
		wantRefused(t, addr, healthPort)
		wantRefused(t, addr, healthPort+1)
	}
	var stacks string
	within(t, "all goroutines have ended", func() bool {
		buf := make([]byte, 1<<20)
		stacks = string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(stacks, "net/http.(*") && !strings.Contains(stacks, "nfproxy/agent/listeners.")
	})
}

// TestChecks: health checks are passed on after the rules are in the kernel, and only if they have changed.
func TestChecks(t *testing.T) {
	var passed []string
	c := NewChecks(func(checks []render.HealthCheck, addrs []netip.Addr) {
		passed = append(passed, fmt.Sprint(checks, addrs))
	})
	service := func(port uint16, endpoints ...string) render.Service {
		s := render.Service{ServiceName: render.ServiceName{Namespace: "ns1", Name: "svc1"}, ExternalLocal: true, HealthCheckNodePort: port,
			ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}
		s.Ports = []render.Port{{}}
		for _, e := range endpoints {
			s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, render.Endpoint{AddrPort: netip.MustParseAddrPort(e), Node: "n", Ready: true})
		}
		return s
	}
	node := render.Node{Name: "n", Addresses: []netip.Addr{node4}}
	elsewhere := node
	elsewhere.Addresses = []netip.Addr{node6}
	everywhere := elsewhere
	everywhere.AllAddresses = render.Families{IPv6: true}
	for i, step := range []struct {
		update render.Update
		want   string // empty for nothing
	}{
		{render.Update{Node: node}, "[] [192.0.2.10]"},
		{render.Update{Node: node, Services: []render.Service{service(0, "10.0.0.1:80")}}, ""},
		{render.Update{Node: node, Services: []render.Service{service(30000, "10.0.0.1:80")}}, "[{ns1/svc1 0001-01-01 00:00:00 +0000 UTC 30000 {true 1} {false 0}}] [192.0.2.10]"},
		{render.Update{Node: node, Services: []render.Service{service(30000, "10.0.0.2:81")}}, ""},
		{render.Update{Node: elsewhere, Services: []render.Service{service(30000, "10.0.0.2:81")}}, "[{ns1/svc1 0001-01-01 00:00:00 +0000 UTC 30000 {true 1} {false 0}}] [2001:db8::10]"},
		{render.Update{Node: elsewhere, Services: []render.Service{service(30000)}}, "[{ns1/svc1 0001-01-01 00:00:00 +0000 UTC 30000 {true 0} {false 0}}] [2001:db8::10]"},
		{render.Update{Node: elsewhere, Services: []render.Service{service(0)}}, "[] [2001:db8::10]"},
		{render.Update{Node: elsewhere, Services: []render.Service{service(30001)}}, "[{ns1/svc1 0001-01-01 00:00:00 +0000 UTC 30001 {true 0} {false 0}}] [2001:db8::10]"},
		{render.Update{Node: elsewhere, Removed: []render.ServiceName{{Namespace: "ns1", Name: "svc1"}}}, "[] [2001:db8::10]"},
		{render.Update{Node: elsewhere, Removed: []render.ServiceName{{Namespace: "ns1", Name: "svc1"}}}, ""},
		{render.Update{Node: everywhere}, "[] [::]"},
	} {
		passed = nil
		c.Take(step.update)
		if passed != nil {
			t.Errorf("step %d: passed on before the rules are in the kernel", i)
		}
		c.Programmed()
		c.Programmed()
		if got := strings.Join(passed, ", "); got != step.want {
			t.Errorf("step %d: passed on %q, want %q", i, got, step.want)
		}
	}
	var none *Checks
	none.Take(render.Update{Node: node})
	none.Programmed()
}

// TestHealthPortEdits: Services that are edited a thousand times do not fill the log, whether they conflict or their ports cannot be
// bound.
func TestHealthPortEdits(t *testing.T) {
	h := newPortsTest(t)
	for i := range 1000 {
		port := uint16(healthPort + i)
		h.Set([]render.HealthCheck{check("first", port, 1), check("second", port, 1)}, nil)
		at := netip.AddrPortFrom(node4, port)
		h.failed(render.ServiceName{Namespace: "ns1", Name: "third"}, at, errors.New("in use"), true)
		h.bound(render.ServiceName{Namespace: "ns1", Name: "third"}, at)
	}
	for _, line := range []string{"is taken by another Service", "cannot be served yet", "is served now"} {
		if n := len(h.log.Lines(line)); n < 1 || n > ratelimit.Burst {
			t.Errorf("%d lines: %s", n, line)
		}
	}
}
