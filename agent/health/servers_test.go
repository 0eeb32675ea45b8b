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

// Where servers are in these tests.
const (
	testHealthz = "127.0.0.1:20256"
	testMetrics = "127.0.0.1:20249"
)

// startServers serves by the settings until the test ends.
func startServers(t *testing.T, set config.Settings, h *Node, inUse any) *metrics.Recorder {
	t.Helper()
	m := metrics.New("v1.2.3")
	s, err := NewServers(set, m, h, inUse, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return m
}

// get asks over a connection of its own.
func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// TestServers: every path, its status, its type and its body.
func TestServers(t *testing.T) {
	var now time.Time
	h := newHealthAt(&now)
	h.SetEligible(true)
	inUse := v1alpha1.KubeProxyConfiguration{TypeMeta: metav1.TypeMeta{Kind: "KubeProxyConfiguration", APIVersion: "kubeproxy.config.k8s.io/v1alpha1"}}
	inUse.Mode = "nftables"
	startServers(t, config.Settings{Healthz: testHealthz, Metrics: testMetrics, Profiling: true}, h, inUse)
	for _, c := range []struct {
		address, path string
		code          int
		contentType   string
		body          string // a pattern
	}{
		{testHealthz, "/healthz", 200, jsonText, regexp.QuoteMeta(healthText(now, now, proxyStart, "true", true))},
		{testHealthz, "/livez", 200, jsonText, regexp.QuoteMeta(healthText(now, now, proxyStart, "", true))},
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
		{testMetrics, "/debug/pprof", 200, "text/html; charset=utf-8", "(?s).*goroutine.*"},
		{testMetrics, "/debug/pprof/goroutine?debug=1", 200, plainText, "(?s)goroutine profile: total.*"},
		{testMetrics, "/debug/pprof/symbol", 200, plainText, "num_symbols: 1\n"},
		{testMetrics, "/debug/pprof/cmdline", 404, plainText, "Unknown profile\n"},
	} {
		answer, body := get(t, "http://"+c.address+c.path)
		if answer.StatusCode != c.code || answer.Header.Get("Content-Type") != c.contentType || !regexp.MustCompile("^"+c.body+"$").MatchString(body) {
			t.Errorf("%s%s: %d, %s\n%.2000s", c.address, c.path, answer.StatusCode, answer.Header.Get("Content-Type"), body)
		}
		if sniff := answer.Header.Get("X-Content-Type-Options"); sniff != "nosniff" && !strings.HasPrefix(c.path, "/debug") && c.path != "/metrics" {
			t.Errorf("%s%s: X-Content-Type-Options: %q", c.address, c.path, sniff)
		}
	}
}

// TestServersFollow: the answers are of now, and each of them counts.
func TestServersFollow(t *testing.T) {
	h := NewNode()
	startServers(t, config.Settings{Healthz: testHealthz, Metrics: testMetrics}, h, nil)
	want := func(path string, code int) {
		t.Helper()
		if answer, body := get(t, "http://"+testHealthz+path); answer.StatusCode != code {
			t.Errorf("%s: %d %s, want %d", path, answer.StatusCode, body, code)
		}
	}
	want("/healthz", 503) // the node was not seen
	want("/livez", 200)
	h.SetEligible(true)
	want("/healthz", 200)
	h.Queued(time.Now().Add(-time.Hour))
	want("/healthz", 503)
	want("/livez", 503)
	h.Programmed(time.Now())
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
	if answer, _ := get(t, "http://"+testMetrics+"/debug/pprof/"); answer.StatusCode != http.StatusNotFound {
		t.Errorf("profiles without asking: %s", answer.Status)
	}
}

// TestServersAddresses: what an address reaches; empty ones are not served.
func TestServersAddresses(t *testing.T) {
	for _, c := range []struct {
		address   string
		four, six bool
	}{
		{"127.0.0.1:20256", true, false}, {"[::1]:20256", false, true}, {"0.0.0.0:20256", true, true}, {"[::]:20256", true, true},
		{":20256", true, true}, {"", false, false},
	} {
		s, err := NewServers(config.Settings{Healthz: c.address}, nil, NewNode(), nil, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if four, six := listens("127.0.0.1:20256"), listens("[::1]:20256"); four != c.four || six != c.six {
			t.Errorf("%q: reached by IPv4 %v, IPv6 %v", c.address, four, six)
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

// occupy takes an address until it is closed, or the test ends.
func occupy(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestServersHardFail: an address that is taken is an error, and no other server is left.
func TestServersHardFail(t *testing.T) {
	occupy(t, testMetrics)
	var told []string
	failed := func(name string, err error) { told = append(told, name+": "+err.Error()) }
	set := config.Settings{Healthz: testHealthz, Metrics: testMetrics, BindAddressHardFail: true}
	_, err := NewServers(set, metrics.New("v1.2.3"), NewNode(), nil, failed, slog.New(slog.DiscardHandler))
	const want = "metrics server at 127.0.0.1:20249: listen tcp 127.0.0.1:20249: bind: address already in use"
	if !errors.Is(err, syscall.EADDRINUSE) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if len(told) != 1 || told[0] != "metrics: "+want {
		t.Errorf("told %q", told)
	}
	if listens(testHealthz) {
		t.Error("the healthz server is left")
	}
}

// TestServersSoftFail: an address that is taken is reported, and the other server serves.
func TestServersSoftFail(t *testing.T) {
	occupy(t, testHealthz)
	var told atomic.Int32
	var log logtest.Buffer
	s, err := NewServers(config.Settings{Healthz: testHealthz, Metrics: testMetrics}, metrics.New("v1.2.3"), NewNode(), nil,
		func(string, error) { told.Add(1) }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !listens(testMetrics) || told.Load() != 1 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("told %d times, logged:\n%s", told.Load(), &log)
	}
}

// newTestServer is one server that tries often.
func newTestServer(log io.Writer, told *atomic.Int32) *server {
	return &server{name: HealthzServer, address: testHealthz, handler: healthzHandler(nil, NewNode()), again: time.Millisecond,
		failed: func(string, error) { told.Add(1) }, log: slog.New(slog.NewTextHandler(log, nil))}
}

// TestServerTriesAgain: an address that becomes free is served, and what failed meanwhile was told once.
func TestServerTriesAgain(t *testing.T) {
	taken := occupy(t, testHealthz)
	var told atomic.Int32
	var log logtest.Buffer
	one := newTestServer(&log, &told)
	ctx, stop := context.WithCancel(t.Context())
	s := servers{stop: stop, err: make(chan error, 1)}
	defer s.Close()
	if err := s.start(ctx, one); err != nil {
		t.Fatal(err)
	}
	_ = taken.Close()
	within(t, 5*time.Second, "the server is there", func() bool { return strings.Contains(log.String(), "server is there now") })
	if answer, _ := get(t, "http://"+testHealthz+"/livez"); answer.StatusCode != http.StatusOK || told.Load() != 1 {
		t.Errorf("%s, told %d times, logged:\n%s", answer.Status, told.Load(), &log)
	}
}

// TestServerBreaks: a server that ends by itself is told and started again, or, with hardFail, is an error.
func TestServerBreaks(t *testing.T) {
	for _, hard := range []bool{false, true} {
		var told atomic.Int32
		var log logtest.Buffer
		ctx, stop := context.WithCancel(t.Context())
		one := newTestServer(&log, &told)
		one.hardFail = hard
		listener, err := one.listen(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		_ = listener.Close()
		go func() { ended <- one.run(ctx, listener) }()
		if hard {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v, want that it is closed", err)
			}
		} else {
			within(t, 5*time.Second, "the server is there again", func() bool { return listens(testHealthz) })
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		stop()
		if told.Load() != 1 {
			t.Errorf("hardFail %v: told %d times", hard, told.Load())
		}
	}
}

// TestServersEnd: a failure that comes later is told by Err.
func TestServersEnd(t *testing.T) {
	var told atomic.Int32
	one := newTestServer(io.Discard, &told)
	one.hardFail = true
	s := servers{stop: func() {}, err: make(chan error, 1)}
	broken := errors.New("broken")
	s.keep(t.Context(), one, brokenListener{broken})
	if err := <-s.Err(); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
	s.Close()
}

// brokenListener accepts nothing.
type brokenListener struct{ err error }

func (b brokenListener) Accept() (net.Conn, error) { return nil, b.err }
func (brokenListener) Close() error                { return nil }
func (brokenListener) Addr() net.Addr              { return &net.TCPAddr{} }

// TestServersConfig: a configuration that cannot be shown is an error at once.
func TestServersConfig(t *testing.T) {
	_, err := NewServers(config.Settings{Metrics: testMetrics}, nil, NewNode(), func() {}, nil, slog.New(slog.DiscardHandler))
	if err == nil || listens(testMetrics) {
		t.Errorf("%v", err)
	}
}
