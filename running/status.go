package running

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Status is what a daemon reports about itself over HTTP. Its JSON form is what `nfproxy status -o json` prints. What the daemon does
// not report is nil or empty: without the server of the metrics most of it.
type Status struct {
	Node    string `json:"node"`
	Version string `json:"version,omitempty"`
	// Ready: the kernel has had everything that the source reported first. Readiness is the text of /readyz.
	Ready     bool   `json:"ready"`
	Readiness string `json:"readiness,omitempty"`
	// Healthy: no change has been pending for a minute. Eligible: load balancers may send new connections to the node.
	Healthy  *bool `json:"healthy,omitempty"`
	Eligible *bool `json:"eligible,omitempty"`
	// InSyncSince is the time since when no round has failed, nil after a failed one. LastCommit is when the tables last changed.
	InSyncSince *time.Time `json:"inSyncSince"`
	LastCommit  *time.Time `json:"lastCommit"`
	// PendingSince is when the change was queued that the kernel does not have, nil if it has all.
	PendingSince *time.Time `json:"pendingSince,omitempty"`
	// At is the time on the node.
	At time.Time `json:"at"`

	Services     *int `json:"services,omitempty"`
	Quarantined  *int `json:"quarantined,omitempty"`
	Conflicts    *int `json:"conflictingFrontends,omitempty"`
	Disallowed   *int `json:"disallowedAddresses,omitempty"`
	Oversized    *int `json:"oversizedServices,omitempty"`
	Repairs      *int `json:"repairs,omitempty"`
	SyncFailures *int `json:"syncFailures,omitempty"`

	// Problems say what needs attention, the most urgent first.
	Problems []string `json:"problems"`
}

// Addresses are where a daemon serves its health and its metrics, as IP:PORT; empty where it does not.
type Addresses struct{ Healthz, Metrics string }

// requestTimeout limits one request to the daemon.
const requestTimeout = 5 * time.Second

// maxBody is how much of a response is read, in bytes: another program can have the address.
const maxBody = 1 << 20

// pendingLong is the age from which a pending change is a problem: all changes are pending for a moment.
const pendingLong = 10 * time.Second

// The metrics that Read uses.
const (
	buildInfo       = "nfproxy_build_info"
	inSyncMetric    = "nfproxy_in_sync_since_timestamp_seconds"
	commitMetric    = "nfproxy_last_commit_timestamp_seconds"
	syncedMetric    = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
	queuedMetric    = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"
	servicesMetric  = "nfproxy_services"
	quarantineGauge = "nfproxy_quarantined_services"
	conflictsGauge  = "nfproxy_conflicting_frontends"
	refusedGauge    = "nfproxy_refused_addresses"
	oversizedGauge  = "nfproxy_oversized_services"
	repairsCounter  = "nfproxy_repairs_total"
	failuresCounter = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"
)

// Read asks the daemon of a node for its status. An error means that it does not answer.
func Read(ctx context.Context, node string, at Addresses) (Status, error) {
	s := Status{Node: node, At: time.Now(), Problems: []string{}}
	if at.Healthz == "" && at.Metrics == "" {
		return s, errors.New("the daemon serves neither its health nor its metrics (--healthz-bind-address and --metrics-bind-address are empty)")
	}
	// The daemon is on this machine: no proxy leads there.
	client := &http.Client{Timeout: requestTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	readyAt := at.Healthz
	if readyAt == "" {
		readyAt = at.Metrics // it has /readyz, too
	}
	code, text, err := get(ctx, client, readyAt, "/readyz", nil)
	if err != nil {
		return s, err
	}
	s.Ready, s.Readiness = code == http.StatusOK, strings.TrimSpace(string(text))
	if at.Healthz != "" {
		if err := s.readHealth(ctx, client, at.Healthz); err != nil {
			return s, err
		}
	}
	if at.Metrics != "" {
		if err := s.readMetrics(ctx, client, at.Metrics); err != nil {
			return s, err
		}
	}
	s.judge(at.Metrics != "")
	return s, nil
}

// readHealth reads /healthz.
func (s *Status) readHealth(ctx context.Context, client *http.Client, address string) error {
	_, text, err := get(ctx, client, address, "/healthz", nil)
	if err != nil {
		return err
	}
	var health struct {
		NodeEligible *bool `json:"nodeEligible"`
		Healthy      *bool `json:"healthy"`
	}
	if err := json.Unmarshal(text, &health); err != nil || health.Healthy == nil {
		return fmt.Errorf("http://%s/healthz: not the answer of an nfproxy daemon; does another proxy have this address?", address)
	}
	s.Healthy, s.Eligible = health.Healthy, health.NodeEligible
	return nil
}

// readMetrics reads those metrics that it needs.
func (s *Status) readMetrics(ctx context.Context, client *http.Client, address string) error {
	names := url.Values{"name[]": {buildInfo, inSyncMetric, commitMetric, syncedMetric, queuedMetric, servicesMetric, quarantineGauge, conflictsGauge,
		refusedGauge, oversizedGauge, repairsCounter, failuresCounter}}
	_, text, err := get(ctx, client, address, "/metrics", names)
	if err != nil {
		return err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil || families[buildInfo] == nil {
		return fmt.Errorf("http://%s/metrics: not the metrics of an nfproxy daemon; does another proxy have this address?", address)
	}
	for _, l := range families[buildInfo].GetMetric()[0].GetLabel() {
		if l.GetName() == "version" {
			s.Version = l.GetValue()
		}
	}
	s.InSyncSince, s.LastCommit = timeOf(families[inSyncMetric]), timeOf(families[commitMetric])
	if queued, synced := valueOf(families[queuedMetric]), valueOf(families[syncedMetric]); queued != nil && (synced == nil || *queued > *synced) {
		s.PendingSince = timeOf(families[queuedMetric])
	}
	for name, to := range map[string]**int{servicesMetric: &s.Services, quarantineGauge: &s.Quarantined, conflictsGauge: &s.Conflicts,
		refusedGauge: &s.Disallowed, oversizedGauge: &s.Oversized, repairsCounter: &s.Repairs, failuresCounter: &s.SyncFailures} {
		if v := valueOf(families[name]); v != nil {
			*to = new(int(*v))
		}
	}
	return nil
}

// valueOf returns the value of the first sample, nil if there is none. Samples of both address families have the same value.
func valueOf(f *dto.MetricFamily) *float64 {
	if f == nil || len(f.GetMetric()) == 0 {
		return nil
	}
	switch m := f.GetMetric()[0]; {
	case m.Counter != nil:
		return m.Counter.Value
	case m.Gauge != nil:
		return m.Gauge.Value
	}
	return nil
}

// timeOf returns the time that a metric holds as seconds since 1970, nil if it is absent or 0.
func timeOf(f *dto.MetricFamily) *time.Time {
	v := valueOf(f)
	if v == nil || *v == 0 {
		return nil
	}
	seconds, fraction := math.Modf(*v)
	return new(time.Unix(int64(seconds), int64(fraction*1e9)).UTC().Round(time.Millisecond))
}

// judge fills in the problems. metrics reports whether the daemon serves its metrics.
func (s *Status) judge(metrics bool) {
	some := func(n *int, one, many string) {
		switch {
		case n == nil || *n == 0:
		case *n == 1:
			s.Problems = append(s.Problems, "1 "+one)
		default:
			s.Problems = append(s.Problems, fmt.Sprintf("%d %s", *n, many))
		}
	}
	if !s.Ready {
		s.Problems = append(s.Problems, "not ready: "+s.Readiness)
	}
	if s.Healthy != nil && !*s.Healthy {
		s.Problems = append(s.Problems, "a change has been pending for a minute")
	} else if s.PendingSince != nil && s.At.Sub(*s.PendingSince) > pendingLong {
		s.Problems = append(s.Problems, "a change has been pending for "+s.At.Sub(*s.PendingSince).Round(time.Second).String())
	}
	if metrics && s.Ready && s.InSyncSince == nil {
		s.Problems = append(s.Problems, "the last round failed; the log says why")
	}
	some(s.Quarantined, "Service in quarantine: the kernel rejects its rules", "Services in quarantine: the kernel rejects their rules")
	some(s.Oversized, "Service is too large", "Services are too large")
	some(s.Conflicts, "frontend is claimed by several Services", "frontends are claimed by several Services")
	some(s.Disallowed, "address is disallowed", "addresses are disallowed")
	if !metrics {
		s.Problems = append(s.Problems, "the daemon serves no metrics: most of its status is unknown")
	}
}

// get requests a path and returns the response.
func get(ctx context.Context, client *http.Client, address, path string, query url.Values) (code int, body []byte, err error) {
	at := url.URL{Scheme: "http", Host: address, Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(request)
	var failed *url.Error
	if errors.As(err, &failed) {
		if failed.Timeout() {
			return 0, nil, fmt.Errorf("http://%s%s: no answer within %s", address, path, requestTimeout)
		}
		return 0, nil, fmt.Errorf("http://%s%s: %w", address, path, failed.Err)
	}
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		err = fmt.Errorf("http://%s%s: %w", address, path, err)
	}
	return response.StatusCode, body, err
}
