package running

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// daemonHTTP answers as a daemon does, with these metrics.
func daemonHTTP(readiness int, health, metrics string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(readiness)
		_, _ = w.Write([]byte("why"))
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(health)) })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(metrics)) })
	return mux
}

const goodMetrics = `# TYPE nfproxy_build_info gauge
# TYPE nfproxy_in_sync_since_timestamp_seconds gauge
# TYPE nfproxy_services gauge
# TYPE nfproxy_quarantined_services gauge
# TYPE nfproxy_conflicting_frontends gauge
# TYPE nfproxy_oversized_services gauge
nfproxy_build_info{go_version="go1",schema="1",version="v1.2.3"} 1
nfproxy_in_sync_since_timestamp_seconds 1.7e9
nfproxy_services 3
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 20
kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 10
`

// TestReadProblems: each problem that the daemon's endpoints show is reported in words.
func TestReadProblems(t *testing.T) {
	const healthy = `{"nodeEligible":true,"healthy":true}`
	for _, c := range []struct {
		readiness       int
		health, metrics string
		want            []string
	}{
		{200, healthy, goodMetrics, []string{}},
		{503, healthy, goodMetrics, []string{"not ready: why"}},
		{200, `{"nodeEligible":true,"healthy":false}`, goodMetrics, []string{"a change has been pending for a minute"}},
		{200, healthy, strings.Replace(goodMetrics, "1.7e9", "0", 1), []string{"the last round failed; the log says why"}},
		{200, healthy, goodMetrics + "nfproxy_quarantined_services 1\nnfproxy_conflicting_frontends 2\nnfproxy_oversized_services 3\n",
			[]string{"1 Service in quarantine: the kernel rejects its rules", "3 Services are too large", "2 frontends are claimed by several Services"}},
	} {
		server := httptest.NewServer(daemonHTTP(c.readiness, c.health, c.metrics))
		at := strings.TrimPrefix(server.URL, "http://")
		s, err := Read(t.Context(), "n", Addresses{at, at})
		server.Close()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, s.Problems); diff != "" || s.Version != "v1.2.3" || *s.Services != 3 {
			t.Errorf("%d %s: %+v\n%s", c.readiness, c.health, s, diff)
		}
	}
}

// TestReadOtherServer: what another proxy answers is no status, and neither is no answer.
func TestReadOtherServer(t *testing.T) {
	server := httptest.NewServer(daemonHTTP(200, "ok", "kubernetes_build_info 1\n"))
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://")
	for _, c := range []struct {
		at   Addresses
		want string
	}{
		{Addresses{}, "serves neither its health nor its metrics"},
		{Addresses{Healthz: at}, "/healthz: not the answer of an nfproxy daemon"},
		{Addresses{Metrics: at}, "/metrics: not the metrics of an nfproxy daemon"},
		{Addresses{Healthz: "127.0.0.1:1"}, "connection refused"},
	} {
		if _, err := Read(t.Context(), "n", c.at); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.at, err, c.want)
		}
	}
}
