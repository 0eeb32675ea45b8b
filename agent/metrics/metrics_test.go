package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// scrapeResult is the parsed response of /metrics.
type scrapeResult struct {
	types   map[string]string    // by name
	labels  map[string]string    // by name: label names separated by commas, without le
	buckets map[string][]float64 // by name of a histogram: upper bounds in order, without +Inf
	samples map[string]float64   // by name and labels
}

var sampleLine = regexp.MustCompile(`^([a-z0-9_]+)(?:\{(.*)\})? (\S+)$`)

// scrape requests /metrics and parses the response.
func scrape(t *testing.T, m *Recorder) scrapeResult {
	t.Helper()
	response := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if response.Code != http.StatusOK {
		t.Fatalf("%d\n%s", response.Code, response.Body)
	}
	return parse(t, response.Body.String())
}

func parse(t *testing.T, text string) scrapeResult {
	t.Helper()
	s := scrapeResult{make(map[string]string), make(map[string]string), make(map[string][]float64), make(map[string]float64)}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			s.types[name] = kind
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		parts := sampleLine.FindStringSubmatch(line)
		if parts == nil {
			t.Fatalf("not a sample: %s", line)
		}
		value, err := strconv.ParseFloat(parts[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		s.samples[strings.TrimSuffix(line, " "+parts[3])] = value
		s.addSample(parts[1], parts[2])
	}
	return s
}

// addSample records the labels and the bucket of a sample. No label value in these tests contains a comma.
func (s scrapeResult) addSample(sample, labels string) {
	name := sample
	if _, ok := s.types[name]; !ok { // a sample of a histogram or summary
		name = name[:strings.LastIndex(name, "_")]
	}
	var names []string
	for pair := range strings.SplitSeq(labels, ",") {
		switch label, value, _ := strings.Cut(pair, "="); label {
		case "":
		case "le":
			if le, err := strconv.ParseFloat(strings.Trim(value, `"`), 64); err == nil && value != `"+Inf"` && !slices.Contains(s.buckets[name], le) {
				s.buckets[name] = append(s.buckets[name], le)
			}
		default:
			names = append(names, label)
		}
	}
	s.labels[name] = strings.Join(names, ",")
}

// populatedRecorder returns a recorder in which each metric has a value.
func populatedRecorder() *Recorder {
	m := New("v1.2.3")
	start := m.started
	m.now = func() time.Time { return start.Add(10 * time.Second) }
	m.Updated(render.Update{Services: []render.Service{localService("web", "node-b")}, ServiceChanges: 1, EndpointChanges: 1})
	m.Committed(Round{Operations: 5, Took: 2 * time.Millisecond, Seen: start.Add(10*time.Second - 3*time.Millisecond),
		Triggered: []time.Time{start.Add(9 * time.Second), start.Add(-time.Hour)}})
	m.Committed(Round{Took: 40 * time.Millisecond, Full: true})
	m.Failed()
	m.Repaired()
	m.Compared(ComparisonRepaired)
	m.Services(9)
	m.Quarantined(2)
	m.ServeLocalhost(func() (int, int) { return 1, 1 })
	m.CountResets()
	m.ConnectionsReset(nft.IPv6, 6)
	m.Conflicts(3)
	m.NotServed(4, 5, 6)
	m.ConntrackCleaned(nft.IPv6, 7, 20*time.Millisecond)
	m.HealthzAnswered(503)
	m.LivezAnswered(200)
	observeRequest(m.client)
	m.CountConnections(render.CountEndpoints, func() (report.Description, error) { return testDescription(), nil })
	return m
}

// observeRequest makes the calls that client-go makes for a request.
func observeRequest(c clientMetrics) {
	ctx, at := context.Background(), url.URL{Host: "api:6443"}
	c.duration.Observe(ctx, "GET", at, time.Second)
	c.throttled.Observe(ctx, "GET", at, time.Second)
	c.sent.Observe(ctx, "GET", at.Host, 100)
	c.received.Observe(ctx, "GET", at.Host, 5000)
	c.results.Increment(ctx, "200", "GET", at.Host)
	c.retries.IncrementRetry(ctx, "429", "GET", at.Host)
}

// TestKubeProxyMetrics: names, types, labels and buckets are those of kube-proxy 1.36 in nftables mode.
func TestKubeProxyMetrics(t *testing.T) {
	got := scrape(t, populatedRecorder())
	for name, want := range map[string][2]string{
		"sync_proxy_rules_duration_seconds":              {"histogram", "ip_family"},
		"sync_full_proxy_rules_duration_seconds":         {"histogram", "ip_family"},
		"sync_partial_proxy_rules_duration_seconds":      {"histogram", "ip_family"},
		"sync_proxy_rules_last_timestamp_seconds":        {"gauge", "ip_family"},
		"sync_proxy_rules_last_queued_timestamp_seconds": {"gauge", "ip_family"},
		"network_programming_duration_seconds":           {"histogram", "ip_family"},
		"sync_proxy_rules_endpoint_changes_pending":      {"gauge", ""},
		"sync_proxy_rules_endpoint_changes_total":        {"counter", ""},
		"sync_proxy_rules_service_changes_pending":       {"gauge", ""},
		"sync_proxy_rules_service_changes_total":         {"counter", ""},
		"sync_proxy_rules_nftables_sync_failures_total":  {"counter", "ip_family"},
		"sync_proxy_rules_no_local_endpoints_total":      {"gauge", "ip_family,traffic_policy"},
		"proxy_healthz_total":                            {"counter", "code"},
		"proxy_livez_total":                              {"counter", "code"},
		"conntrack_reconciler_sync_duration_seconds":     {"histogram", "ip_family"},
		"conntrack_reconciler_deleted_entries_total":     {"counter", "ip_family"},
	} {
		name = "kubeproxy_" + name
		if is := [2]string{got.types[name], got.labels[name]}; is != want {
			t.Errorf("%s: %q, want %q", name, is, want)
		}
		if got.types[name] != "histogram" {
			continue
		}
		buckets := [3]float64{0.001, 16.384, 15} // first, last, number of buckets
		if name == "kubeproxy_network_programming_duration_seconds" {
			buckets = [3]float64{0.25, 300, 80}
		}
		if le := got.buckets[name]; len(le) == 0 || [3]float64{le[0], le[len(le)-1], float64(len(le))} != buckets {
			t.Errorf("%s: buckets %v", name, le)
		}
	}
}

// TestMetricsValues: /metrics shows the recorded values.
func TestMetricsValues(t *testing.T) {
	m := populatedRecorder()
	result := scrape(t, m)
	now := unixSeconds(m.now())
	for sample, want := range map[string]float64{
		`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`:                               2,
		`kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv6",le="0.002"}`:                   1,
		`kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"}`:                          1,
		`kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}`:                       1,
		`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`:                               now,
		`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"}`:                        now,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}`:                            1,
		`kubeproxy_network_programming_duration_seconds_sum{ip_family="IPv6"}`:                              1,
		`kubeproxy_sync_proxy_rules_service_changes_total`:                                                  1,
		`kubeproxy_sync_proxy_rules_endpoint_changes_total`:                                                 1,
		`kubeproxy_sync_proxy_rules_service_changes_pending`:                                                0,
		`kubeproxy_sync_proxy_rules_endpoint_changes_pending`:                                               0,
		`kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"}`:                         1,
		`kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv6"}`:                         1,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}`:   1,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="internal"}`:   0,
		`kubeproxy_proxy_healthz_total{code="503"}`:                                                         1,
		`kubeproxy_proxy_healthz_total{code="200"}`:                                                         0,
		`kubeproxy_proxy_livez_total{code="200"}`:                                                           1,
		`kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv6"}`:                      1,
		`kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv6"}`:                            7,
		`kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}`:                            0,
		`nfproxy_gone_endpoint_connections_total{ip_family="IPv6"}`:                                         6,
		`nfproxy_gone_endpoint_connections_total{ip_family="IPv4"}`:                                         0,
		`nfproxy_event_to_commit_seconds_count`:                                                             1,
		`nfproxy_event_to_commit_seconds_bucket{le="0.0016"}`:                                               0,
		`nfproxy_event_to_commit_seconds_bucket{le="0.0032"}`:                                               1,
		`nfproxy_commit_duration_seconds_count`:                                                             1,
		`nfproxy_batch_operations_sum`:                                                                      5,
		`nfproxy_repairs_total`:                                                                             1,
		`nfproxy_comparisons_total{result="repaired"}`:                                                      1,
		`nfproxy_comparisons_total{result="equal"}`:                                                         0,
		`nfproxy_quarantined_services`:                                                                      2,
		`nfproxy_services`:                                                                                  9,
		`nfproxy_last_commit_timestamp_seconds`:                                                             now,
		`nfproxy_in_sync_since_timestamp_seconds`:                                                           0, // a round has failed
		`nfproxy_conflicting_frontends`:                                                                     3,
		`rest_client_requests_total{code="200",host="api:6443",method="GET"}`:                               1,
		`rest_client_request_retries_total{code="429",host="api:6443",verb="GET"}`:                          1,
		`rest_client_request_duration_seconds_bucket{host="api:6443",verb="GET",le="1"}`:                    1,
		`rest_client_response_size_bytes_sum{host="api:6443",verb="GET"}`:                                   5000,
		fmt.Sprintf(`nfproxy_build_info{go_version=%q,schema="1",version=%q}`, runtime.Version(), "v1.2.3"): 1,
	} {
		got, ok := result.samples[sample]
		if !ok || got < want-1e-3 || got > want+1e-3 {
			t.Errorf("%s is %v (present: %v), want %v", sample, got, ok, want)
		}
	}
}

// TestClockBehind: a change whose time lies in the future, because the clock of the node is behind or was set back, counts as
// programmed at once. A negative duration would let the sum of the histogram fall, which Prometheus takes for a restart.
func TestClockBehind(t *testing.T) {
	m := New("v1.2.3")
	m.Committed(Round{Operations: 1, Seen: m.started, Triggered: []time.Time{m.started.Add(time.Hour)}})
	got := scrape(t, m).samples
	for name, want := range map[string]float64{"count": 1, "sum": 0} {
		if value := got[`kubeproxy_network_programming_duration_seconds_`+name+`{ip_family="IPv4"}`]; value != want {
			t.Errorf("%s %v, want %v", name, value, want)
		}
	}
}

// TestInSyncSince: a node is in sync since the first round that succeeds after the start or after a failure. A round without changes
// is no commit.
func TestInSyncSince(t *testing.T) {
	m := New("v1.2.3")
	start := m.started
	at := func(seconds time.Duration) { m.now = func() time.Time { return start.Add(seconds * time.Second) } }
	check := func(when string, since, commit float64) {
		t.Helper()
		got := scrape(t, m).samples
		for name, want := range map[string]float64{"in_sync_since": since, "last_commit": commit} {
			if want > 0 {
				want += unixSeconds(start)
			}
			if value := got["nfproxy_"+name+"_timestamp_seconds"]; value < want-1e-3 || value > want+1e-3 {
				t.Errorf("%s: %s is %v, want %v", when, name, value, want)
			}
		}
	}
	check("before the first round", 0, 0)
	at(1)
	m.Committed(Round{Operations: 3})
	at(2)
	m.Committed(Round{})
	check("after a round without changes", 1, 1)
	at(3)
	m.Failed()
	check("after a failure", 0, 1)
	at(4)
	m.Committed(Round{Operations: 1})
	check("after the failure has ended", 4, 4)
}

// TestMetricsPending: changes are pending until a round commits them, and the last sync is absent before the first.
func TestMetricsPending(t *testing.T) {
	m := New("v1.2.3")
	if _, ok := scrape(t, m).samples[`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`]; ok {
		t.Error("the last sync is present before the first sync")
	}
	m.Updated(render.Update{Services: []render.Service{localService("a", "node-b"), localService("b", "node-b")}, ServiceChanges: 2, EndpointChanges: 2})
	m.Updated(render.Update{Removed: []render.ServiceName{{Namespace: "ns1", Name: "a"}}, ServiceChanges: 1, EndpointChanges: 1})
	m.Failed()
	got := scrape(t, m).samples
	for sample, want := range map[string]float64{
		`kubeproxy_sync_proxy_rules_service_changes_pending`:                                              3,
		`kubeproxy_sync_proxy_rules_endpoint_changes_pending`:                                             3,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}`: 0,
	} {
		if got[sample] != want {
			t.Errorf("%s is %v, want %v", sample, got[sample], want)
		}
	}
	m.Committed(Round{})
	got = scrape(t, m).samples
	for sample, want := range map[string]float64{
		`kubeproxy_sync_proxy_rules_service_changes_pending`:                                              0,
		`kubeproxy_sync_proxy_rules_service_changes_total`:                                                3,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}`: 1,
		`nfproxy_batch_operations_count`:                                                                  0,
	} {
		if got[sample] != want {
			t.Errorf("%s is %v after the commit, want %v", sample, got[sample], want)
		}
	}
}

// TestNilRecorder: the methods of a nil Recorder do nothing.
func TestNilRecorder(t *testing.T) {
	var m *Recorder
	m.Updated(render.Update{})
	m.Committed(Round{Full: true})
	m.Failed()
	m.Repaired()
	m.Compared(ComparisonRepaired)
	m.Quarantined(1)
	m.Conflicts(1)
	m.NotServed(1, 1, 1)
	m.ConntrackCleaned(nft.IPv4, 1, time.Second)
	m.HealthzAnswered(200)
	m.LivezAnswered(200)
	m.WatchClients()
	m.ServeLocalhost(func() (int, int) { return 1, 1 })
	m.LocalhostListenFailed(nft.IPv4)
	m.CountResets()
	m.ConnectionsReset(nft.IPv4, 1)
}

// TestResetsAbsent: the metric of connections to endpoints that are gone is absent unless the daemon looks for them.
func TestResetsAbsent(t *testing.T) {
	for sample := range scrape(t, New("v1.2.3")).samples {
		if strings.Contains(sample, "gone_endpoint") {
			t.Errorf("%s exists", sample)
		}
	}
}

// TestLocalhostMetrics: the metrics of node ports at loopback addresses have kube-proxy's names and meaning, and are absent
// unless such node ports are served.
func TestLocalhostMetrics(t *testing.T) {
	m := New("v1.2.3")
	for sample := range scrape(t, m).samples {
		if strings.Contains(sample, "localhost") {
			t.Errorf("%s exists", sample)
		}
	}
	m.ServeLocalhost(func() (ipv4, ipv6 int) { return 3, 2 })
	m.LocalhostListenFailed(nft.IPv6)
	m.LocalhostListenFailed(nft.IPv6)
	got := scrape(t, m).samples
	for sample, want := range map[string]float64{
		`kubeproxy_nftables_localhost_nodeport_listeners{ip_family="IPv4"}`:                        3,
		`kubeproxy_nftables_localhost_nodeport_listeners{ip_family="IPv6"}`:                        2,
		`kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total{ip_family="IPv4"}`: 0,
		`kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total{ip_family="IPv6"}`: 2,
	} {
		if value, ok := got[sample]; !ok || value != want {
			t.Errorf("%s is %v, want %v", sample, value, want)
		}
	}
}

// documentedMetric matches a row of docs/metrics.md: name, type and labels.
var documentedMetric = regexp.MustCompile("(?m)^\\| `([a-z0-9_*]+)` \\|([a-z ]*)\\|([a-z_, `]*)\\|")

// absentMetric matches a row of the metrics that kube-proxy has and nfproxy does not.
var absentMetric = regexp.MustCompile("(?m)^\\| `([a-z0-9_*]+)`[^|]*\\|[^|]*\\|$")

// TestMetricsDocument: docs/metrics.md lists exactly the metrics, with their types and labels, and no absent metric exists.
func TestMetricsDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	present, absent, ok := strings.Cut(string(text), "\n## What kube-proxy has but nfproxy does not\n")
	if !ok {
		t.Fatal("docs/metrics.md has no section about absent metrics")
	}
	s := scrape(t, populatedRecorder())
	exported := make(map[string]string)
	for name, kind := range s.types {
		if prefix, _, _ := strings.Cut(name, "_"); prefix == "go" || prefix == "process" {
			exported[prefix+"_*"] = " "
			continue
		}
		exported[name] = kind + " " + s.labels[name]
	}
	documented := make(map[string]string)
	for _, row := range documentedMetric.FindAllStringSubmatch(present, -1) {
		documented[row[1]] = strings.TrimSpace(row[2]) + " " + strings.NewReplacer("`", "", " ", "").Replace(row[3])
	}
	if diff := cmp.Diff(exported, documented); diff != "" {
		t.Errorf("docs/metrics.md (-code +document):\n%s", diff)
	}
	rows := absentMetric.FindAllStringSubmatch(absent, -1)
	for _, row := range rows {
		if _, ok := s.types[row[1]]; ok {
			t.Errorf("docs/metrics.md lists %s as absent, but it exists", row[1])
		}
	}
	if len(rows) < 5 {
		t.Errorf("docs/metrics.md lists only %d absent metrics", len(rows))
	}
}
