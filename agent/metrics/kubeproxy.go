package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/nft"
)

// peerMetrics are kube-proxy's, with its names, labels and buckets, so that its dashboards and alerts go on (v1.36:
// pkg/proxy/metrics/metrics.go, in nftables mode). A round of ours is for both families at once and is seen under both.
type peerMetrics struct {
	syncDuration, fullDuration, partialDuration *prometheus.HistogramVec
	lastSync, lastQueued                        *prometheus.GaugeVec
	networkProgramming                          *prometheus.HistogramVec
	// A change is a Service that, but for its endpoints, or whose endpoints, are not what the update before said; for
	// kube-proxy it is an object that it was told of, and per family.
	serviceChanges, endpointChanges prometheus.Counter
	servicePending, endpointPending prometheus.Gauge
	syncFailures                    *prometheus.CounterVec
	noLocalEndpoints                *prometheus.GaugeVec
	healthz, livez                  *prometheus.CounterVec
	sweepDuration                   *prometheus.HistogramVec
	sweepDeleted                    *prometheus.CounterVec
}

// peerPrefix begins the names of kube-proxy's metrics.
const peerPrefix = "kubeproxy_"

// ipFamilies are the values of the label ip_family.
func ipFamilies() []string { return []string{ipFamily(nft.IPv4), ipFamily(nft.IPv6)} }

// ipFamily is what the API calls a family.
func ipFamily(f nft.Family) string {
	if f == nft.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

func newPeerMetrics() peerMetrics {
	p := peerMetrics{
		syncDuration: peerHistogram("sync_proxy_rules_duration_seconds", "Time that a round took.", syncBuckets()),
		fullDuration: peerHistogram("sync_full_proxy_rules_duration_seconds",
			"Time that a round took that read and compared the tables.", syncBuckets()),
		partialDuration: peerHistogram("sync_partial_proxy_rules_duration_seconds",
			"Time that a round took that sent what had changed.", syncBuckets()),
		lastSync:   peerGauges("sync_proxy_rules_last_timestamp_seconds", "When the kernel last had all that was wanted.", "ip_family"),
		lastQueued: peerGauges("sync_proxy_rules_last_queued_timestamp_seconds", "When something last was to be programmed.", "ip_family"),
		networkProgramming: peerHistogram("network_programming_duration_seconds",
			"Time from a change of endpoints in the cluster to the kernel having it, by the clocks of two machines.", programmingBuckets()),
		serviceChanges:  peerCounter("sync_proxy_rules_service_changes_total", "Services that came, went or changed but for their endpoints."),
		endpointChanges: peerCounter("sync_proxy_rules_endpoint_changes_total", "Services whose endpoints changed."),
		servicePending:  peerGauge("sync_proxy_rules_service_changes_pending", "Changes of Services that the kernel has not yet."),
		endpointPending: peerGauge("sync_proxy_rules_endpoint_changes_pending", "Changes of endpoints that the kernel has not yet."),
		syncFailures: peerCounters("sync_proxy_rules_nftables_sync_failures_total",
			"Rounds after which the kernel had not what was wanted.", "ip_family"),
		noLocalEndpoints: peerGauges("sync_proxy_rules_no_local_endpoints_total",
			"Service ports with a Local policy that have endpoints, but none on this node.", "traffic_policy", "ip_family"),
		healthz:       peerCounters("proxy_healthz_total", "Answers of /healthz by HTTP status.", "code"),
		livez:         peerCounters("proxy_livez_total", "Answers of /livez by HTTP status.", "code"),
		sweepDuration: peerHistogram("conntrack_reconciler_sync_duration_seconds", "Time that a sweep of stale flows took.", syncBuckets()),
		sweepDeleted:  peerCounters("conntrack_reconciler_deleted_entries_total", "Stale flows that were deleted.", "ip_family"),
	}
	p.begin()
	return p
}

// begin shows counters and histograms at 0 before there is anything to count: a rate needs a beginning.
func (p peerMetrics) begin() {
	for _, family := range ipFamilies() {
		for _, h := range []*prometheus.HistogramVec{p.syncDuration, p.fullDuration, p.partialDuration, p.networkProgramming, p.sweepDuration} {
			h.WithLabelValues(family)
		}
		p.syncFailures.WithLabelValues(family)
		p.sweepDeleted.WithLabelValues(family)
		p.noLocalEndpoints.WithLabelValues(internalPolicy, family)
		p.noLocalEndpoints.WithLabelValues(externalPolicy, family)
	}
	for _, code := range []string{"200", "503"} {
		p.healthz.WithLabelValues(code)
		p.livez.WithLabelValues(code)
	}
}

func (p peerMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		p.syncDuration, p.fullDuration, p.partialDuration, p.lastSync, p.lastQueued, p.networkProgramming, p.serviceChanges,
		p.endpointChanges, p.servicePending, p.endpointPending, p.syncFailures, p.noLocalEndpoints, p.healthz, p.livez,
		p.sweepDuration, p.sweepDeleted,
	}
}

// synced notes a round. What was triggered before the process started says nothing of this proxy; kube-proxy ignores it
// as well (pkg/proxy/endpointschangetracker.go).
func (p peerMetrics) synced(done Round, now, started time.Time) {
	kind := p.partialDuration
	if done.Full {
		kind = p.fullDuration
	}
	for _, family := range ipFamilies() {
		p.syncDuration.WithLabelValues(family).Observe(done.Took.Seconds())
		kind.WithLabelValues(family).Observe(done.Took.Seconds())
		for _, at := range done.Triggered {
			if at.After(started) {
				p.networkProgramming.WithLabelValues(family).Observe(now.Sub(at).Seconds())
			}
		}
	}
	p.servicePending.Set(0)
	p.endpointPending.Set(0)
	setBoth(p.lastSync, unixSeconds(now))
}

// syncBuckets are 1 ms to 16 s, each twice the one before.
func syncBuckets() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 15) }

// programmingBuckets are 0.25 s to 5 min, of the SLI network_programming_latency (Kubernetes' SIG Scalability).
func programmingBuckets() []float64 {
	return slices.Concat([]float64{0.25, 0.5}, prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12),
		prometheus.LinearBuckets(120, 30, 7))
}

func peerHistogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: peerPrefix + name, Help: help, Buckets: buckets}, []string{"ip_family"})
}

func peerGauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: peerPrefix + name, Help: help}, labels)
}

func peerCounters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: peerPrefix + name, Help: help}, labels)
}

func peerGauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: peerPrefix + name, Help: help})
}

func peerCounter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: peerPrefix + name, Help: help})
}

// setBoth sets a gauge for both families.
func setBoth(g *prometheus.GaugeVec, value float64) {
	for _, family := range ipFamilies() {
		g.WithLabelValues(family).Set(value)
	}
}

// unixSeconds is a time as metrics have it: seconds since 1970.
func unixSeconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
