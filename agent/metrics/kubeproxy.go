package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/nft"
)

// kubeProxyMetrics are kube-proxy's metrics with its names, labels and buckets, so that dashboards and alerts for kube-proxy
// keep working (v1.36, nftables mode: pkg/proxy/metrics/metrics.go). A round of nfproxy programs both families in one
// transaction and is recorded under both.
type kubeProxyMetrics struct {
	syncDuration, fullDuration, partialDuration *prometheus.HistogramVec
	lastSync, lastQueued                        *prometheus.GaugeVec
	networkProgramming                          *prometheus.HistogramVec
	// The number of Services that differ, or whose endpoints differ, from the previous update. kube-proxy counts events, and
	// each once per family.
	serviceChanges, endpointChanges prometheus.Counter
	servicePending, endpointPending prometheus.Gauge
	syncFailures                    *prometheus.CounterVec
	noLocalEndpoints                *prometheus.GaugeVec
	healthz, livez                  *prometheus.CounterVec
	cleanupDuration                 *prometheus.HistogramVec
	cleanupDeleted                  *prometheus.CounterVec
	localhostFailures               *prometheus.CounterVec // of 1.37; registered by ServeLocalhost
}

// kubeProxyPrefix is the prefix of the names of kube-proxy's metrics.
const kubeProxyPrefix = "kubeproxy_"

// ipFamilies returns the values of the label ip_family.
func ipFamilies() []string { return []string{ipFamily(nft.IPv4), ipFamily(nft.IPv6)} }

// ipFamily returns the Kubernetes API's name of a family.
func ipFamily(f nft.Family) string {
	if f == nft.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

func newKubeProxyMetrics() kubeProxyMetrics {
	p := kubeProxyMetrics{
		syncDuration: familyHistogram("sync_proxy_rules_duration_seconds", "Duration of a round, which programs the kernel's tables.", syncBuckets()),
		fullDuration: familyHistogram("sync_full_proxy_rules_duration_seconds",
			"Duration of a round that read the kernel's tables and compared them with the desired state.", syncBuckets()),
		partialDuration: familyHistogram("sync_partial_proxy_rules_duration_seconds",
			"Duration of a round that sent only changes.", syncBuckets()),
		lastSync:   gaugeVec("sync_proxy_rules_last_timestamp_seconds", "Time when the kernel last had the complete desired state.", "ip_family"),
		lastQueued: gaugeVec("sync_proxy_rules_last_queued_timestamp_seconds", "Time when a change was last queued for programming.", "ip_family"),
		networkProgramming: familyHistogram("network_programming_duration_seconds",
			"Time from a change of endpoints in the cluster until the kernel has it, measured with the clocks of two machines.", programmingBuckets()),
		serviceChanges:  counter("sync_proxy_rules_service_changes_total", "Services that were added, removed or changed, apart from their endpoints."),
		endpointChanges: counter("sync_proxy_rules_endpoint_changes_total", "Services whose endpoints changed."),
		servicePending:  gauge("sync_proxy_rules_service_changes_pending", "Changes of Services that are not in the kernel yet."),
		endpointPending: gauge("sync_proxy_rules_endpoint_changes_pending", "Changes of endpoints that are not in the kernel yet."),
		syncFailures: counterVec("sync_proxy_rules_nftables_sync_failures_total",
			"Rounds that failed to bring the kernel to the desired state.", "ip_family"),
		noLocalEndpoints: gaugeVec("sync_proxy_rules_no_local_endpoints_total",
			"Service ports with traffic policy Local that have endpoints in the cluster but none on this node.", "traffic_policy", "ip_family"),
		healthz:         counterVec("proxy_healthz_total", "Responses of /healthz by HTTP status code.", "code"),
		livez:           counterVec("proxy_livez_total", "Responses of /livez by HTTP status code.", "code"),
		cleanupDuration: familyHistogram("conntrack_reconciler_sync_duration_seconds", "Duration of a cleanup of stale conntrack entries.", syncBuckets()),
		cleanupDeleted:  counterVec("conntrack_reconciler_deleted_entries_total", "Stale conntrack entries that were deleted.", "ip_family"),
		localhostFailures: counterVec(localhostPrefix+"listener_creation_failures_total",
			"Failed attempts to listen for connections to a node port at a loopback address.", "ip_family"),
	}
	p.initialize()
	return p
}

// initialize makes counters and histograms appear with the value 0, so that a rate sees their first increment.
func (p kubeProxyMetrics) initialize() {
	for _, family := range ipFamilies() {
		for _, h := range []*prometheus.HistogramVec{p.syncDuration, p.fullDuration, p.partialDuration, p.networkProgramming, p.cleanupDuration} {
			h.WithLabelValues(family)
		}
		p.syncFailures.WithLabelValues(family)
		p.cleanupDeleted.WithLabelValues(family)
		p.localhostFailures.WithLabelValues(family)
		p.noLocalEndpoints.WithLabelValues(internalPolicy, family)
		p.noLocalEndpoints.WithLabelValues(externalPolicy, family)
	}
	for _, code := range []string{"200", "503"} {
		p.healthz.WithLabelValues(code)
		p.livez.WithLabelValues(code)
	}
}

func (p kubeProxyMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		p.syncDuration, p.fullDuration, p.partialDuration, p.lastSync, p.lastQueued, p.networkProgramming, p.serviceChanges,
		p.endpointChanges, p.servicePending, p.endpointPending, p.syncFailures, p.noLocalEndpoints, p.healthz, p.livez,
		p.cleanupDuration, p.cleanupDeleted,
	}
}

// observeRound records a successful round. It ignores changes that were triggered before the process started, as kube-proxy
// does (pkg/proxy/endpointschangetracker.go): their latency does not depend on this process. A change is older than the process if
// its age is: the clock may have been set since the start.
func (p kubeProxyMetrics) observeRound(done Round, now, started time.Time) {
	duration := p.partialDuration
	if done.Full {
		duration = p.fullDuration
	}
	for _, family := range ipFamilies() {
		p.syncDuration.WithLabelValues(family).Observe(done.Took.Seconds())
		duration.WithLabelValues(family).Observe(done.Took.Seconds())
		for _, trigger := range done.Triggered {
			if now.Sub(trigger) < now.Sub(started) {
				// The two times are of different clocks.
				p.networkProgramming.WithLabelValues(family).Observe(max(0, now.Sub(trigger).Seconds()))
			}
		}
	}
	p.servicePending.Set(0)
	p.endpointPending.Set(0)
	setBoth(p.lastSync, unixSeconds(now))
}

// syncBuckets returns buckets from 1 ms to 16 s, each twice the previous one.
func syncBuckets() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 15) }

// programmingBuckets returns buckets from 0.25 s to 5 min, those of SIG Scalability's SLI for network programming latency.
func programmingBuckets() []float64 {
	return slices.Concat([]float64{0.25, 0.5}, prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12),
		prometheus.LinearBuckets(120, 30, 7))
}

// familyHistogram returns a histogram with the label ip_family.
func familyHistogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: kubeProxyPrefix + name, Help: help, Buckets: buckets}, []string{"ip_family"})
}

func gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: kubeProxyPrefix + name, Help: help}, labels)
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: kubeProxyPrefix + name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: kubeProxyPrefix + name, Help: help})
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: kubeProxyPrefix + name, Help: help})
}

// setBoth sets the gauge to the value for both families.
func setBoth(g *prometheus.GaugeVec, value float64) {
	for _, family := range ipFamilies() {
		g.WithLabelValues(family).Set(value)
	}
}

// unixSeconds returns a time as seconds since 1970, the unit of timestamp metrics.
func unixSeconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
