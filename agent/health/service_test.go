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
	"nfproxy/render"

	"nfproxy/sandbox"
)

// The node's addresses in these tests, and a port.
var (
	node4 = netip.MustParseAddr("192.0.2.10")
	node6 = netip.MustParseAddr("2001:db8::10")
)

const healthPort = 30100

// newHealthNode gives this namespace the node's addresses until the test ends.
func newHealthNode(t *testing.T) []netip.Addr {
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

// healthTest has servers, whether they are healthy and what they log.
type healthTest struct {
	*ServicePorts
	healthy atomic.Bool
	log     logtest.Buffer
}

func newHealthTest(t *testing.T) *healthTest {
	t.Helper()
	h := &healthTest{}
	h.healthy.Store(true)
	h.ServicePorts = NewServicePorts(h.healthy.Load, func(render.ServiceName, string) {}, slog.New(slog.NewTextHandler(&h.log, nil)))
	t.Cleanup(h.Close)
	return h
}

func check(name string, port uint16, endpoints int) render.HealthCheck {
	part := render.FamilyCheck{Served: true, LocalEndpoints: endpoints}
	return render.HealthCheck{Service: render.ServiceName{Namespace: "ns1", Name: name}, Port: port, IPv4: part, IPv6: part}
}

// date is the one line of an answer that is never the same.
var date = regexp.MustCompile("(?m)^Date: .* GMT\r\n")

// ask returns the answer from an address and port as it comes over the wire, without its date.
func ask(addr netip.Addr, port uint16, path string) (string, error) {
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, port).String(), 2*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", path)
	answer, err := io.ReadAll(conn)
	return date.ReplaceAllString(string(answer), ""), err
}

// answer is what a load balancer is to read, byte for byte.
func answer(status, name string, endpoints int, healthy bool) string {
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

func wantAnswer(t *testing.T, addr netip.Addr, port uint16, path, want string) {
	t.Helper()
	got, err := ask(addr, port, path)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%s port %d: %v (-want +got):\n%s", addr, port, err, diff)
	}
}

func wantRefused(t *testing.T, addr netip.Addr, port uint16) {
	t.Helper()
	if got, err := ask(addr, port, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s port %d: %v, want the connection to be refused\n%s", addr, port, err, got)
	}
}

// within waits until something is true.
func within(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

const (
	ok200  = "200 OK"
	bad503 = "503 Service Unavailable"
)

// TestHealthAnswers: every byte that a load balancer reads, and that it is always the present that it reads.
func TestHealthAnswers(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
	for _, step := range []struct {
		endpoints int
		healthy   bool
		status    string
	}{{1, true, ok200}, {12, true, ok200}, {0, true, bad503}, {3, false, bad503}, {0, false, bad503}, {1, true, ok200}} {
		h.healthy.Store(step.healthy)
		h.Set([]render.HealthCheck{check("svc1", healthPort, step.endpoints)}, addrs)
		for _, addr := range addrs {
			for _, path := range []string{"/", "/healthz", "/any/path?at=all"} {
				wantAnswer(t, addr, healthPort, path, answer(step.status, "svc1", step.endpoints, step.healthy))
			}
		}
	}
	wantRefused(t, netip.MustParseAddr("127.0.0.1"), healthPort)
	wantRefused(t, netip.IPv6Loopback(), healthPort)
}

// TestHealthCountWithoutReopening: a connection outlives changes of the count, and ends with its Service.
func TestHealthCountWithoutReopening(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
	h.Set([]render.HealthCheck{check("svc1", healthPort, 1)}, addrs)
	conn, err := net.Dial("tcp4", netip.AddrPortFrom(node4, healthPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
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
		t.Errorf("the connection is still there: %v", err)
	}
}

// TestHealthServersFollow: servers are there for the Services and addresses of the last Set, whatever was before.
func TestHealthServersFollow(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
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
					wantAnswer(t, addr, port, "/", answer(status, c.Service.Name, c.IPv4.LocalEndpoints, true))
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

// TestHealthPortTaken: a port that somebody else has is reported once and bound when it is free; meanwhile the other
// address is served.
func TestHealthPortTaken(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
	at := netip.AddrPortFrom(node4, healthPort)
	other, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for n := range 3 {
		h.Set([]render.HealthCheck{check("svc1", healthPort, n+1)}, addrs)
	}
	wantAnswer(t, node6, healthPort, "/", answer(ok200, "svc1", 3, true))
	const want = `level=WARN msg="health check node port cannot be served yet" service=ns1/svc1 address=192.0.2.10:30100 ` +
		`error="listen tcp4 192.0.2.10:30100: bind: address already in use"`
	if log := h.log.String(); strings.Count(log, want) != 1 || strings.Count(log, "\n") != 1 {
		t.Errorf("logged:\n%s", log)
	}
	other.Close()
	within(t, 3*time.Second, "the port is served", func() bool {
		got, err := ask(node4, healthPort, "/")
		return err == nil && got == answer(ok200, "svc1", 3, true)
	})
	if log := h.log.String(); strings.Count(log, "\n") != 2 || !strings.Contains(log, `"health check node port is served now"`) {
		t.Errorf("logged:\n%s", log)
	}
}

// TestHealthPortOfOthers: a Service cannot take the port of a server that listens at all addresses, as nfproxy's own and
// the kubelet's do, and that server goes on.
func TestHealthPortOfOthers(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
	own, err := newHealthServer(netip.AddrPortFrom(netip.IPv4Unspecified(), healthPort), http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer own.close()
	h.Set([]render.HealthCheck{check("svc1", healthPort, 1)}, addrs[:1])
	if log := h.log.String(); !strings.Contains(log, "address already in use") {
		t.Errorf("logged:\n%s", log)
	}
	if got, err := ask(node4, healthPort, "/"); err != nil || !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("it answers %q: %v", got, err)
	}
}

// TestHealthPortNotWantedAnyMore: what cannot be bound is not tried after it is not wanted.
func TestHealthPortNotWantedAnyMore(t *testing.T) {
	h := newHealthTest(t) // without addresses there is nothing to bind to
	h.Set([]render.HealthCheck{check("svc1", healthPort, 1)}, []netip.Addr{node4})
	if log := h.log.String(); !strings.Contains(log, "cannot assign requested address") {
		t.Errorf("logged:\n%s", log)
	}
	h.Set(nil, []netip.Addr{node4})
	newHealthNode(t)
	h.mu.Lock()
	h.match() // what the timer does
	h.mu.Unlock()
	wantRefused(t, node4, healthPort)
}

// TestHealthServerEnds: a server whose listener fails comes back.
func TestHealthServerEnds(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
	h.Set([]render.HealthCheck{check("svc1", healthPort, 1)}, addrs)
	h.mu.Lock()
	h.servers[netip.AddrPortFrom(node4, healthPort)].listener.Close()
	h.mu.Unlock()
	within(t, 3*time.Second, "the port is served again", func() bool {
		_, err := ask(node4, healthPort, "/")
		return err == nil
	})
}

// TestHealthPortOfTwo: the first by name has the port, the other is reported once and has it afterwards.
func TestHealthPortOfTwo(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
	first, second := check("first", healthPort, 1), check("second", healthPort, 2)
	h.Set([]render.HealthCheck{first, second}, addrs)
	second.IPv4.LocalEndpoints, second.IPv6.LocalEndpoints = 5, 5
	h.Set([]render.HealthCheck{second, first}, addrs)
	wantAnswer(t, node4, healthPort, "/", answer(ok200, "first", 1, true))
	const want = `msg="health check node port is taken by another Service" service=ns1/second port=30100 owner=ns1/first`
	if log := h.log.String(); strings.Count(log, want) != 1 || strings.Count(log, "\n") != 1 {
		t.Errorf("logged:\n%s", log)
	}
	h.Set([]render.HealthCheck{second}, addrs)
	wantAnswer(t, node4, healthPort, "/", answer(ok200, "second", 5, true))
}

// TestHealthClose: nothing listens and nothing runs afterwards.
func TestHealthClose(t *testing.T) {
	h, addrs := newHealthTest(t), newHealthNode(t)
	h.Set([]render.HealthCheck{check("a", healthPort, 1), check("b", healthPort+1, 1)}, addrs)
	idle, err := net.Dial("tcp4", netip.AddrPortFrom(node4, healthPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	wantAnswer(t, node4, healthPort, "/", answer(ok200, "a", 1, true)) // accepted after the idle one
	h.Close()
	for _, addr := range addrs {
		wantRefused(t, addr, healthPort)
		wantRefused(t, addr, healthPort+1)
	}
	var stacks string
	within(t, 3*time.Second, "all goroutines have ended", func() bool {
		buf := make([]byte, 1<<20)
		stacks = string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(stacks, "net/http.(*") && !strings.Contains(stacks, "health.newHealthServer") &&
			!strings.Contains(stacks, "health.(*ServicePorts)")
	})
}

// TestHealthChecks: servers are told after the rules are there, and only of news.
func TestHealthChecks(t *testing.T) {
	var told []string
	h := NewChecks(func(checks []render.HealthCheck, addrs []netip.Addr) { told = append(told, fmt.Sprint(checks, addrs)) })
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
	} {
		told = nil
		h.Take(step.update)
		if told != nil {
			t.Errorf("step %d: told before the rules are there", i)
		}
		h.Programmed()
		h.Programmed()
		if got := strings.Join(told, ", "); got != step.want {
			t.Errorf("step %d: told %q, want %q", i, got, step.want)
		}
	}
	var none *Checks
	none.Take(render.Update{Node: node})
	none.Programmed()
}
