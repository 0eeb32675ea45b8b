package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"nfproxy/logtest"
	"nfproxy/render"
)

// apiTest is an API server that counts what it gets.
type apiTest struct {
	*httptest.Server
	nodes int           // there are so many, 0 if the server denies to tell
	hold  chan struct{} // if not nil, requests for Nodes wait until it is closed

	mu       sync.Mutex
	requests map[string]int // by method and resource
}

func newAPITest(t *testing.T, nodes int) *apiTest {
	t.Helper()
	a := &apiTest{nodes: nodes, requests: make(map[string]int)}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "api")) // the tests' network has no loopback interface
	if err != nil {
		t.Fatal(err)
	}
	a.Server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: a}}
	a.Start()
	t.Cleanup(a.Close)
	return a
}

// ServeHTTP answers requests for Nodes, and returns Events as they were sent.
func (a *apiTest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := "events"
	if strings.Contains(r.URL.Path, "/nodes") {
		resource = "nodes"
	}
	a.mu.Lock()
	a.requests[r.Method+" "+resource]++
	a.mu.Unlock()
	if resource == "nodes" && a.hold != nil {
		<-a.hold
	}
	body, _ := io.ReadAll(r.Body)
	switch {
	case resource == "nodes" && a.nodes == 0:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status: metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden})
	case resource == "nodes":
		list := metav1.PartialObjectMetadataList{Items: make([]metav1.PartialObjectMetadata, 1)}
		if rest := int64(a.nodes - 1); rest > 0 {
			list.RemainingItemCount = &rest
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	case r.Method == http.MethodPost:
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.Event{TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "v1"}})
	}
}

// count returns the number of requests.
func (a *apiTest) count(request string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests[request]
}

// events returns events for the server.
func (a *apiTest) events(t *testing.T, log *slog.Logger) *events {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, a.Listener.Addr().Network(), a.Listener.Addr().String())
	}
	e, err := newEvents(&rest.Config{Host: "http://api", Dial: dial, QPS: 1000, Burst: 1000}, render.Node{Name: "node-a"}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// hostileEdits is how often a hostile Service is edited.
const hostileEdits = 1000

// TestHostileServiceReports: a Service that is edited a thousand times, each time with another cause for reports, leads to a bounded
// number of lines in the log and of requests to the API server, the first at once. Another Service is reported as ever.
func TestHostileServiceReports(t *testing.T) {
	node := render.Node{Name: "n", ExternalIPs: render.Allowlist{Only: true}}
	for _, c := range []struct {
		name string
		edit func(r *reports, s render.Service, i int)
		line string
	}{
		{"disallowed addresses", func(r *reports, s render.Service, i int) {
			s.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})}
			r.updated(render.Update{Node: node, Services: []render.Service{s}})
		}, "a Service names addresses"},
		{"deleted and created again", func(r *reports, s render.Service, i int) {
			s.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
			r.updated(render.Update{Node: node, Services: []render.Service{s}})
			r.updated(render.Update{Node: node, Removed: []render.ServiceName{s.ServiceName}})
		}, "a Service names addresses"},
		{"too large", func(r *reports, s render.Service, i int) {
			s.Excess = []render.Excess{render.WithoutAddresses, render.NoExcess, render.WithoutPorts}[i%3]
			r.updated(render.Update{Node: node, Services: []render.Service{s}})
		}, "too large"},
		{"conflicts", func(r *reports, s render.Service, i int) {
			var all []render.Conflict
			for port := range uint16(20) {
				all = append(all, render.Conflict{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), port),
					Winner: render.ServiceName{Namespace: "ns", Name: fmt.Sprint("w", i)}, Loser: s.ServiceName})
			}
			r.conflicted(all)
		}, "conflict"},
		{"refused by the kernel", func(r *reports, s render.Service, i int) {
			r.quarantined(s.ServiceName, fmt.Errorf("refused %d", i), time.Second)
		}, "the kernel refuses a Service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			api, log := newAPITest(t, 3), new(logtest.Buffer)
			r := newReports(log.Logger(slog.LevelInfo), api.events(t, slog.New(slog.DiscardHandler)), func(int, int, int) {})
			for i := range hostileEdits {
				c.edit(r, testService("hostile", "10.96.0.1:80"), i)
				if i == 0 && len(log.Lines(c.line)) == 0 {
					t.Fatalf("the first edit is not reported:\n%s", log)
				}
			}
			hostile := len(log.Lines())
			c.edit(r, testService("other", "10.96.0.2:80"), 0)
			if lines := len(log.Lines()); hostile > 22 || lines == hostile { // conflicts have lines of two kinds
				t.Errorf("%d lines, and %d about another Service:\n%s", hostile, lines-hostile, log)
			}
			within(t, "an Event is written", func() bool { return api.count("POST events") >= 2 })
			time.Sleep(200 * time.Millisecond) // for the Events that must not be
			if n := api.count("POST events") + api.count("PATCH events") + api.count("PUT events"); n > 2*eventBurst {
				t.Errorf("%d requests", n)
			}
			if n := api.count("GET nodes"); n != 1 {
				t.Errorf("the nodes are counted %d times", n)
			}
		})
	}
}

// TestEventsWithoutNodes: if the API server denies access to Nodes, a node writes as few Events as in the largest cluster. Those
// about the node itself are always written.
func TestEventsWithoutNodes(t *testing.T) {
	const services = 500
	api := newAPITest(t, 0)
	e := api.events(t, slog.New(slog.DiscardHandler))
	for i := range services {
		e.warn(render.ServiceName{Namespace: "ns", Name: fmt.Sprint("s", i)}, reasonRefused, "refused")
	}
	e.started("v1.2.3")
	within(t, "the Event about the node", func() bool { return api.count("POST events") >= 1 && api.count("GET nodes") >= 1 })
	time.Sleep(200 * time.Millisecond) // for the Events that must not be
	if n := api.count("POST events"); n > 1+services/20 {
		t.Errorf("%d requests for %d Services", n, services)
	}
}

// TestEventsWait: until the nodes are counted Events wait, a few about each of a bounded number of Services, so that one Service does
// not keep the others from being reported.
func TestEventsWait(t *testing.T) {
	api := newAPITest(t, 3)
	api.hold = make(chan struct{})
	e := api.events(t, slog.New(slog.DiscardHandler))
	warn := func(i int, reason string) {
		e.warn(render.ServiceName{Namespace: "ns", Name: fmt.Sprint("s", i)}, reason, fmt.Sprint("message ", i))
	}
	for range hostileEdits {
		warn(0, reasonRefused)
		e.healthCheckFailed(render.ServiceName{Namespace: "ns", Name: "s1"}, "in use", true)
	}
	warn(2, reasonConflict)
	e.mu.Lock()
	for subject, want := range map[eventSubject]int{
		{render.ServiceName{Namespace: "ns", Name: "s0"}, reasonRefused}:            eventBurst,
		{render.ServiceName{Namespace: "ns", Name: "s1"}, reasonServiceHealthcheck}: 1,
		{render.ServiceName{Namespace: "ns", Name: "s2"}, reasonConflict}:           1,
	} {
		if n := len(e.waiting[subject]); n != want {
			t.Errorf("%v: %d Events wait, want %d", subject, n, want)
		}
	}
	e.mu.Unlock()
	for i := range 2 * maxWaiting {
		warn(i, reasonTooLarge)
	}
	e.mu.Lock()
	if n := len(e.waiting); n != maxWaiting {
		t.Errorf("Events of %d subjects wait", n)
	}
	e.mu.Unlock()
	close(api.hold)
	within(t, "Events are written", func() bool { return api.count("POST events") >= 2 })
}

// TestEventsWithoutServer: while the API server is unavailable, each Event is tried many times, and only few attempts are logged.
func TestEventsWithoutServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out logtest.Buffer
		var attempts atomic.Int32
		dial := func(context.Context, string, string) (net.Conn, error) {
			attempts.Add(1)
			return nil, syscall.ECONNREFUSED
		}
		e, err := newEvents(&rest.Config{Host: "http://api", Dial: dial}, render.Node{Name: "node-a"}, out.Logger(slog.LevelInfo))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			e.started(fmt.Sprint("v1.2.", i))
		}
		time.Sleep(20 * time.Minute)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := attempts.Load(); n < 100 {
			t.Errorf("%d attempts", n)
		}
		if lines := out.Lines("Unable to write event"); len(lines) == 0 || len(lines) > 10 {
			t.Errorf("%d lines after %d attempts", len(lines), attempts.Load())
		}
	})
}
