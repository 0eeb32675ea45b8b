package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"nfproxy/logtest"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestPause: the pause between two attempts to reach the API server is never longer than documented, with its jitter.
func TestPause(t *testing.T) {
	t.Parallel()
	backoff := newPace().backoff
	for range 1000 {
		if pause := backoff.Step(); pause > maxPause {
			t.Fatalf("pause of %v, want at most %v", pause, maxPause)
		}
	}
}

// fault answers the requests for Services while it is on.
type fault struct {
	on     atomic.Bool
	count  atomic.Int32 // of the requests that it has answered
	answer func(*http.Request) (*http.Response, error)
}

// await waits until a number of requests has been answered.
func (f *fault) await(t *testing.T, requests int32) {
	t.Helper()
	for begin := time.Now(); f.count.Load() < requests; time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("%d requests", f.count.Load())
		}
	}
}

func (f *fault) at(s *server) *server {
	return s.by(func(c *rest.Config) {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if f.on.Load() && path.Base(r.URL.Path) == "services" {
					f.count.Add(1)
					return f.answer(r)
				}
				return next.RoundTrip(r)
			})
		})
	})
}

// respond returns the response with a status, as the API server sends it.
func respond(r *http.Request, status metav1.Status) *http.Response {
	status.Kind, status.APIVersion, status.Status = "Status", "v1", metav1.StatusFailure
	body, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	return &http.Response{
		StatusCode: int(status.Code), Status: http.StatusText(int(status.Code)), Proto: "HTTP/2.0", ProtoMajor: 2, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(strings.NewReader(string(body))), ContentLength: int64(len(body)),
	}
}

// openWith opens a source with a pace and takes its first Update.
func openWith(t *testing.T, s *server, p pace) *world {
	t.Helper()
	w := &world{watched: newWatched(t, nil, new(logtest.Buffer)), cluster: s, there: map[objectKey]runtime.Object{}}
	a, err := newAPI(s.config, render.Node{Name: "n1"}, nodePortAddresses{}, p, w.logger())
	if err != nil {
		t.Fatal(err)
	}
	w.source = a
	t.Cleanup(func() {
		w.must(a.Close())
		for _, o := range w.there {
			w.cluster.remove(w, o)
		}
	})
	if _, err := w.next(patience); err != nil {
		t.Fatalf("first Update: %v; log:\n%s", err, w.log.Lines())
	}
	return w
}

// reconnect ends all connections of the source.
func (w *world) reconnect() { w.source.(*API).clients.dialer.CloseAll() }

// testRepeats: a server that answers every watch at once with 410, or with 504 and the cause "too large resource version", is
// asked a few times and not continuously. client-go repeats these requests without a pause.
func testRepeats(t *testing.T, s *server) {
	for name, status := range map[string]metav1.Status{
		"410": {Code: http.StatusGone, Reason: metav1.StatusReasonExpired},
		"504": {Code: http.StatusGatewayTimeout, Reason: metav1.StatusReasonTimeout, Details: &metav1.StatusDetails{
			Causes: []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge}}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := fault{answer: func(r *http.Request) (*http.Response, error) { return respond(r, status), nil }}
			w := openWith(t, f.at(s), newPace())
			f.on.Store(true)
			w.reconnect()
			for begin := time.Now(); f.count.Load() < 5; time.Sleep(time.Millisecond) {
				if time.Since(begin) > patience {
					t.Fatal("no further requests")
				}
			}
			time.Sleep(2 * time.Second)
			if n, most := f.count.Load(), int32(newPace().burst+5); n > most { // lists follow some of the watches
				t.Errorf("%d requests, want at most %d", n, most)
			}
			f.on.Store(false)
			w.put(aService("web", "10.96.1.1"))
			w.until("web http 80/tcp")
		})
	}
}

// testRetryAfter: a response that demands a pause of an hour does not stop the source for an hour.
func testRetryAfter(t *testing.T, s *server) {
	for _, code := range []int32{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(http.StatusText(int(code)), func(t *testing.T) {
			f := fault{answer: func(r *http.Request) (*http.Response, error) {
				response := respond(r, metav1.Status{Code: code, Details: &metav1.StatusDetails{RetryAfterSeconds: 3600}})
				response.Header.Set("Retry-After", "3600")
				return response, nil
			}}
			w := openWith(t, f.at(s), shortPace())
			f.on.Store(true)
			w.reconnect()
			f.await(t, 3)
			f.on.Store(false)
			w.put(aService("web", "10.96.1.1"))
			w.until("web http 80/tcp")
			w.logged(1, "level=WARN", "API server does not answer")
		})
	}
}

// testNoRelist: after broken connections and timeouts, watches continue where they ended. All objects are not requested again.
func testNoRelist(t *testing.T, s *server) {
	var initial atomic.Int32
	f := fault{answer: func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("watch") == "" || r.URL.Query().Has("sendInitialEvents") {
			initial.Add(1)
		}
		return nil, io.EOF
	}}
	w := openWith(t, f.at(s), shortPace())
	before := aService("before", "10.96.1.2")
	w.put(before)
	w.until("before http 80/tcp") // client-go lists again after a watch that was short and without events
	w.remove(before)
	w.until()
	f.on.Store(true)
	w.reconnect()
	f.await(t, 30)
	f.on.Store(false)
	w.put(aService("web", "10.96.1.1"))
	w.until("web http 80/tcp")
	if n := initial.Load(); n > 0 {
		t.Errorf("%d of %d requests were for all objects", n, f.count.Load())
	}
}

// hole is a connection that a test can turn into a black hole: nothing arrives any more, and writing succeeds.
type hole struct {
	net.Conn
	open   *atomic.Bool
	closed context.Context
	close  context.CancelFunc
}

func (h hole) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if h.open.Load() {
		<-h.closed.Done()
		return 0, net.ErrClosed
	}
	return n, err
}

func (h hole) Write(b []byte) (int, error) {
	if h.open.Load() {
		return len(b), nil
	}
	return h.Conn.Write(b)
}

func (h hole) Close() error {
	h.close()
	return h.Conn.Close()
}

// testBlackHole: a connection on which nothing arrives any more, without being closed, is noticed and replaced. Watches continue
// where they ended, without a pause.
func testBlackHole(t *testing.T, s *server) {
	open := new(atomic.Bool)
	var initial atomic.Int32
	holes := s.by(func(c *rest.Config) {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Query().Has("sendInitialEvents") {
					initial.Add(1)
				}
				return next.RoundTrip(r)
			})
		})
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil || open.Swap(false) {
				return conn, err
			}
			closed, closing := context.WithCancel(context.Background())
			return hole{conn, open, closed, closing}, nil
		}
	})
	p := shortPace()
	p.idle, p.ping = 2*time.Second, 2*time.Second // longer than a busy machine delays an answer
	w := openWith(t, holes, p)
	time.Sleep(time.Second) // client-go lists again after a watch that was short and without events
	before := initial.Load()
	open.Store(true)
	w.put(aService("web", "10.96.1.1"))
	w.until("web http 80/tcp")
	if n := initial.Load() - before; n > 0 {
		t.Errorf("all objects of %d resources were requested again", n)
	}
	w.logged(0, "watch ended with error")
}

// testTimeoutIsLogged: the first timeout is logged, with its cause. client-go alone tries ten times more before it returns, and
// then hides the cause.
func testTimeoutIsLogged(t *testing.T, s *server) {
	var dials atomic.Int32
	w := &world{watched: newWatched(t, nil, new(logtest.Buffer))}
	away := s.by(func(c *rest.Config) {
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		}
	})
	a, err := newAPI(away.config, render.Node{Name: "n1"}, nodePortAddresses{}, newPace(), w.logger())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for begin := time.Now(); len(w.log.Lines("does not answer", "i/o timeout")) == 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("nothing is logged after %d attempts", dials.Load())
		}
	}
	if n := dials.Load(); n > 8 {
		t.Errorf("logged after %d attempts", n)
	}
}

// hangingServer starts a server in a namespace of its own and returns the client configuration for it.
func hangingServer(t *testing.T, handler http.HandlerFunc) *rest.Config {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	if server.Listener, err = ns.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		_ = ns.Close()
	})
	return &rest.Config{
		Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true, NextProtos: []string{"h2"}},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return ns.Dial(ctx, network, "", addr)
		},
	}
}

// TestAPIAnswerNeverBegins: a request whose response never begins is repeated, although the connection works.
func TestAPIAnswerNeverBegins(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	third := make(chan struct{})
	config := hangingServer(t, func(_ http.ResponseWriter, r *http.Request) {
		if path.Base(r.URL.Path) == "services" && requests.Add(1) == 3 {
			close(third)
		}
		<-r.Context().Done()
	})
	p := shortPace()
	p.answer = 100 * time.Millisecond
	log := new(logtest.Buffer)
	w := &world{watched: newWatched(t, nil, log)}
	a, err := newAPI(config, render.Node{Name: "n1"}, nodePortAddresses{}, p, w.logger())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	select {
	case <-third:
	case <-time.After(patience):
		t.Fatalf("%d requests; log:\n%s", requests.Load(), log.Lines())
	}
}

// TestAPIAnswerNeverEnds: a list and a watch end if their response begins and nothing follows, although the connection works.
func TestAPIAnswerNeverEnds(t *testing.T) {
	t.Parallel()
	config := hangingServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = http.NewResponseController(w).Flush() // fails if the client has gone
		<-r.Context().Done()
	})
	p := shortPace()
	p.answer, p.list = 5*time.Second, 100*time.Millisecond
	clients, err := newRESTClients(config, p)
	if err != nil {
		t.Fatal(err)
	}
	defer clients.close()
	services := resources(render.Node{Name: "n1"})[0]
	client, err := clients.forVersion(services.version)
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(services, nil, client, newAvailability(slog.New(slog.DiscardHandler)), p)
	if _, err := s.list(t.Context(), metav1.ListOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("list: %v, want %v", err, context.DeadlineExceeded)
	}
	watch, err := s.watch(t.Context(), metav1.ListOptions{TimeoutSeconds: new(int64)})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	select {
	case event, ok := <-watch.ResultChan():
		if ok {
			t.Errorf("event %v", event)
		}
	case <-time.After(patience):
		t.Error("the watch does not end")
	}
}
