package health

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/agent/metrics"
	"nfproxy/config"
	"nfproxy/logtest"
)

// The addresses of the servers in these tests.
const (
	testHealthz = "127.0.0.1:20256"
	testMetrics = "127.0.0.1:20249"
)

// startServers runs servers with the settings until the test ends.
func startServers(t *testing.T, set config.Settings, n *Node, configz any) *metrics.Recorder {
	t.Helper()
	m := metrics.New("v1.2.3")
	s, err := NewServers(set, "v1.2.3", m, n, configz, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return m
}

// get sends a request over a new connection.
func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// TestServers: each path returns its status code, content type and body.
func TestServers(t *testing.T) {
	var now time.Time
	n := newNodeAt(&now)
	n.SetEligible(true)
	configz := v1alpha1.KubeProxyConfiguration{TypeMeta: metav1.TypeMeta{Kind: "KubeProxyConfiguration", APIVersion: "kubeproxy.config.k8s.io/v1alpha1"}}
	configz.Mode = "nftables"
	startServers(t, config.Settings{Healthz: testHealthz, Metrics: testMetrics, Profiling: true, Statusz: true, Flagz: true,
		Flags: map[string]string{"profiling": "true"}}, n, configz)
	for _, c := range []struct {
		address, path string
		code          int
		contentType   string
		body          string // a pattern
	}{
		{testHealthz, "/healthz", 200, jsonText, regexp.QuoteMeta(statusJSON(now, now, proxyStart, "true", true))},
		{testHealthz, "/livez", 200, jsonText, regexp.QuoteMeta(statusJSON(now, now, proxyStart, "", true))},
		{testHealthz, "/readyz", 503, plainText, "waiting for the first Services"},
		{testHealthz, "/metrics", 404, plainText, "404 page not found\n"},
		{testHealthz, "/", 404, plainText, "404 page not found\n"},
		{testMetrics, "/healthz", 200, plainText, "ok"},
		{testMetrics, "/healthz?verbose", 200, plainText, `\[\+\]ping ok\nhealthz check passed\n`},
		{testMetrics, "/healthz/ping", 200, plainText, "ok"},
		{testMetrics, "/livez", 404, plainText, "404 page not found\n"},
		{testMetrics, "/readyz", 503, plainText, "waiting for the first Services"},
		{testMetrics, "/proxyMode", 200, plainText, "nftables"},
		{testMetrics, "/configz", 200, jsonText,
			`\{"kubeproxy\.config\.k8s\.io":\{"kind":"KubeProxyConfiguration","apiVersion":"kubeproxy\.config\.k8s\.io/v1alpha1",.*"mode":"nftables",.*\}\}`},
		{testMetrics, "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "(?s)# HELP .*"},
		{testMetrics, "/statusz", 200, plainText, `(?s)\nnfproxy statusz\n.*\nBinary version:?=? *v1\.2\.3\n\n` +
			`Paths:?=? */configz /debug /flagz /healthz /metrics /proxyMode /readyz\n`},
		{testMetrics, "/flagz", 200, plainText, `(?s)\nnfproxy flagz\n.*\nprofiling:?=? *true\n`},
		{testHealthz, "/statusz", 404, plainText, "404 page not found\n"},
		{testHealthz, "/flagz", 404, plainText, "404 page not found\n"},
		{testMetrics, "/debug/pprof", 200, "text/html; charset=utf-8", "(?s).*goroutine.*"},
		{testMetrics, "/debug/pprof/goroutine?debug=1", 200, plainText, "(?s)goroutine profile: total.*"},
		{testMetrics, "/debug/pprof/symbol", 200, plainText, "num_symbols: 1\n"},
		{testMetrics, "/debug/pprof/cmdline", 404, plainText, "Unknown profile\n"},
	} {
		response, body := get(t, "http://"+c.address+c.path)
		if response.StatusCode != c.code || response.Header.Get("Content-Type") != c.contentType || !regexp.MustCompile("^"+c.body+"$").MatchString(body) {
			t.Errorf("%s%s: %d, %s\n%.2000s", c.address, c.path, response.StatusCode, response.Header.Get("Content-Type"), body)
		}
		if sniff := response.Header.Get("X-Content-Type-Options"); sniff != "nosniff" && !strings.HasPrefix(c.path, "/debug") && c.path != "/metrics" {
			t.Errorf("%s%s: X-Content-Type-Options: %q", c.address, c.path, sniff)
		}
	}
}

// TestServersCurrentState: responses show the current health, and each is counted.
func TestServersCurrentState(t *testing.T) {
	n := NewNode(false)
	startServers(t, config.Settings{Healthz: testHealthz, Metrics: testMetrics}, n, nil)
	want := func(path string, code int) {
		t.Helper()
		if response, body := get(t, "http://"+testHealthz+path); response.StatusCode != code {
			t.Errorf("%s: %d %s, want %d", path, response.StatusCode, body, code)
		}
	}
	want("/healthz", 503) // the node has not been seen
	want("/livez", 200)
	n.SetEligible(true)
	want("/healthz", 200)
	n.Queued(time.Now().Add(-time.Hour))
	want("/healthz", 503)
	want("/livez", 503)
	n.Programmed(time.Now())
	want("/healthz", 200)
	want("/readyz", 200)
	_, text := get(t, "http://"+testMetrics+"/metrics")
	for _, sample := range []string{
		`kubeproxy_proxy_healthz_total{code="200"} 2`, `kubeproxy_proxy_healthz_total{code="503"} 2`,
		`kubeproxy_proxy_livez_total{code="200"} 1`, `kubeproxy_proxy_livez_total{code="503"} 1`,
	} {
		if !strings.Contains(text, "\n"+sample+"\n") {
			t.Errorf("no %s in\n%s", sample, text)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/statusz", "/flagz"} {
		if response, _ := get(t, "http://"+testMetrics+path); response.StatusCode != http.StatusNotFound {
			t.Errorf("%s is served without the setting: %s", path, response.Status)
		}
	}
}

// TestServersAddresses: each form of address listens on the right families, and an empty one not at all.
func TestServersAddresses(t *testing.T) {
	for _, c := range []struct {
		address   string
		four, six bool
	}{
		{"127.0.0.1:20256", true, false}, {"[::1]:20256", false, true}, {"0.0.0.0:20256", true, true}, {"[::]:20256", true, true},
		{":20256", true, true}, {"", false, false},
	} {
		s, err := NewServers(config.Settings{Healthz: c.address}, "v1.2.3", nil, NewNode(false), nil, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if four, six := listens("127.0.0.1:20256"), listens("[::1]:20256"); four != c.four || six != c.six {
			t.Errorf("%q: reachable over IPv4 %v, IPv6 %v", c.address, four, six)
		}
		if listens(testMetrics) {
			t.Errorf("%q: metrics are served", c.address)
		}
		s.Close()
		s.Close()
		if listens("127.0.0.1:20256") || listens("[::1]:20256") {
			t.Errorf("%q: served after Close", c.address)
		}
	}
}

func listens(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// occupy listens at an address until the listener is closed or the test ends.
func occupy(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestServersHardFail: an occupied address is an error, and the other server is stopped.
func TestServersHardFail(t *testing.T) {
	occupy(t, testMetrics)
	var reported []string
	failed := func(name string, err error) { reported = append(reported, name+": "+err.Error()) }
	set := config.Settings{Healthz: testHealthz, Metrics: testMetrics, BindAddressHardFail: true}
	_, err := NewServers(set, "v1.2.3", metrics.New("v1.2.3"), NewNode(false), nil, failed, slog.New(slog.DiscardHandler))
	const want = "metrics server at 127.0.0.1:20249: listen tcp 127.0.0.1:20249: bind: address already in use"
	if !errors.Is(err, syscall.EADDRINUSE) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if len(reported) != 1 || reported[0] != "metrics: "+want {
		t.Errorf("reported %q", reported)
	}
	if listens(testHealthz) {
		t.Error("the healthz server still runs")
	}
}

// TestServersSoftFail: an occupied address is reported, and the other server serves.
func TestServersSoftFail(t *testing.T) {
	occupy(t, testHealthz)
	var reports atomic.Int32
	var log logtest.Buffer
	s, err := NewServers(config.Settings{Healthz: testHealthz, Metrics: testMetrics}, "v1.2.3", metrics.New("v1.2.3"), NewNode(false), nil,
		func(string, error) { reports.Add(1) }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !listens(testMetrics) || reports.Load() != 1 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("reported %d times, logged:\n%s", reports.Load(), &log)
	}
}

// newTestServer returns a server that retries every millisecond and counts its reports.
func newTestServer(log io.Writer, reports *atomic.Int32) *server {
	return &server{name: HealthzServer, address: testHealthz, handler: healthzHandler(nil, NewNode(false)), retryInterval: time.Millisecond,
		failed: func(string, error) { reports.Add(1) }, log: slog.New(slog.NewTextHandler(log, nil))}
}

// TestServerRetries: the server listens when its address becomes free, and reports the failed attempts once.
func TestServerRetries(t *testing.T) {
	occupied := occupy(t, testHealthz)
	var reports atomic.Int32
	var log logtest.Buffer
	srv := newTestServer(&log, &reports)
	ctx, stop := context.WithCancel(t.Context())
	s := Servers{stop: stop, err: make(chan error, 1)}
	defer s.Close()
	if err := s.start(ctx, srv); err != nil {
		t.Fatal(err)
	}
	_ = occupied.Close()
	within(t, "server is listening", func() bool { return strings.Contains(log.String(), "server is listening") })
	if response, _ := get(t, "http://"+testHealthz+"/livez"); response.StatusCode != http.StatusOK || reports.Load() != 1 {
		t.Errorf("%s, reported %d times, logged:\n%s", response.Status, reports.Load(), &log)
	}
}

// TestServerFails: a server that fails is reported and restarted or, with hardFail, returns the error.
func TestServerFails(t *testing.T) {
	for _, hard := range []bool{false, true} {
		var reports atomic.Int32
		var log logtest.Buffer
		ctx, stop := context.WithCancel(t.Context())
		srv := newTestServer(&log, &reports)
		srv.hardFail = hard
		listener, err := srv.listen(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		_ = listener.Close()
		go func() { ended <- srv.run(ctx, listener) }()
		if hard {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v, want %v", err, net.ErrClosed)
			}
		} else {
			within(t, "server is listening again", func() bool { return listens(testHealthz) })
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		stop()
		if reports.Load() != 1 {
			t.Errorf("hardFail %v: reported %d times", hard, reports.Load())
		}
	}
}

// TestServersLateFailure: Err receives the error of a server that fails after the start.
func TestServersLateFailure(t *testing.T) {
	var reports atomic.Int32
	srv := newTestServer(io.Discard, &reports)
	srv.hardFail = true
	s := Servers{stop: func() {}, err: make(chan error, 1)}
	broken := errors.New("broken")
	s.run(t.Context(), srv, brokenListener{broken})
	if err := <-s.Err(); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
	s.Close()
}

// brokenListener is a listener whose Accept fails.
type brokenListener struct{ err error }

func (b brokenListener) Accept() (net.Conn, error) { return nil, b.err }
func (brokenListener) Close() error                { return nil }
func (brokenListener) Addr() net.Addr              { return &net.TCPAddr{} }

// TestServersConfig: a configuration that cannot be encoded is an error, and no server is started.
func TestServersConfig(t *testing.T) {
	_, err := NewServers(config.Settings{Metrics: testMetrics}, "v1.2.3", nil, NewNode(false), func() {}, nil, slog.New(slog.DiscardHandler))
	if err == nil || listens(testMetrics) {
		t.Errorf("%v", err)
	}
}
