package metrics

import (
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/render"
)

// nfproxyMetrics are the metrics that kube-proxy does not have.
type nfproxyMetrics struct {
	eventToCommit, commitDuration, batchOperations         prometheus.Histogram
	repairs                                                prometheus.Counter
	comparisons                                            *prometheus.CounterVec
	resets                                                 *prometheus.CounterVec // registered by CountResets
	quarantined, conflicts, disallowedAddresses, oversized prometheus.Gauge
	ignoredAnnotations                                     prometheus.Gauge
	services, lastCommit, inSyncSince                      prometheus.Gauge
}

// ComparisonResult is the result of a periodic comparison with the kernel's tables.
type ComparisonResult string

// The results of comparisons.
const (
	// ComparisonUnchanged: no other program had committed, so the tables were not read.
	ComparisonUnchanged ComparisonResult = "unchanged"
	// ComparisonEqual: other programs had committed, and the tables had the desired state.
	ComparisonEqual ComparisonResult = "equal"
	// ComparisonRepaired: the tables differed from the desired state and were repaired.
	ComparisonRepaired ComparisonResult = "repaired"
	// ComparisonFailed: the tables could not be read or repaired; the retry is not a comparison.
	ComparisonFailed ComparisonResult = "failed"
)

// fastBuckets returns buckets from 0.1 ms to 13 s, each twice the previous one, for durations below a millisecond.
func fastBuckets() []float64 { return prometheus.ExponentialBuckets(0.0001, 2, 18) }

func newNfproxyMetrics() nfproxyMetrics {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "nfproxy", Name: name, Help: help, Buckets: buckets})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "nfproxy", Name: name, Help: help})
	}
	comparisons := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "nfproxy", Name: "comparisons_total",
		Help: "Periodic comparisons with the kernel's tables, by what they found."}, []string{"result"})
	for _, result := range []ComparisonResult{ComparisonUnchanged, ComparisonEqual, ComparisonRepaired, ComparisonFailed} {
		comparisons.WithLabelValues(string(result))
	}
	resets := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "nfproxy", Name: "gone_endpoint_connections_total",
		Help: "Connections to endpoints that are gone whose conntrack entries were deleted, so that the next packet is answered by a reset."},
		[]string{"ip_family"})
	for _, family := range ipFamilies() {
		resets.WithLabelValues(family)
	}
	return nfproxyMetrics{
		comparisons: comparisons,
		resets:      resets,
		eventToCommit: histogram("event_to_commit_seconds",
			"Time from the arrival of the first change of a round on this node until the kernel has the changes.", fastBuckets()),
		commitDuration: histogram("commit_duration_seconds",
			"Duration of a round that sent elements to the kernel: rendering, reading if needed, and the transaction.", fastBuckets()),
		batchOperations: histogram("batch_operations",
			"Number of elements that a transaction added and deleted.", prometheus.ExponentialBuckets(1, 4, 12)),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "nfproxy", Name: "repairs_total",
			Help: "Repairs of the tables after other programs changed them."}),
		quarantined: gauge("quarantined_services", "Services whose changes the kernel rejects; their previous rules stay in place."),
		conflicts:   gauge("conflicting_frontends", "Frontends that more than one Service claims."),
		disallowedAddresses: gauge("refused_addresses",
			"External and load balancer addresses of Services that the configuration of this node disallows."),
		oversized:          gauge("oversized_services", "Services that need more elements than one Service, or all together, may have: only a part of each is served."),
		ignoredAnnotations: gauge("ignored_annotations", "Annotations of Services and their EndpointSlices that do not have the effect that they ask for."),
		services:           gauge("services", "Services that have rules or keep them in quarantine."),
		lastCommit:         gauge("last_commit_timestamp_seconds", "Time when a round last changed elements in the kernel, 0 before the first time."),
		inSyncSince:        gauge("in_sync_since_timestamp_seconds", "Time since when no round has failed; 0 after a failed round, and before the first one succeeds."),
	}
}

func (o nfproxyMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.eventToCommit, o.commitDuration, o.batchOperations, o.repairs, o.comparisons, o.quarantined, o.conflicts,
		o.disallowedAddresses, o.oversized, o.ignoredAnnotations, o.services, o.lastCommit, o.inSyncSince}
}

// newBuildInfo returns the metric nfproxy_build_info. It is not named kubernetes_build_info, because alerts on components
// with different Kubernetes versions use that metric.
func newBuildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "nfproxy", Name: "build_info",
		Help:        "Always 1; the labels are the versions of nfproxy, of the schema of its tables, and of Go.",
		ConstLabels: prometheus.Labels{"version": version, "schema": strconv.Itoa(render.SchemaVersion), "go_version": runtime.Version()}})
	info.Set(1)
	return info
}
