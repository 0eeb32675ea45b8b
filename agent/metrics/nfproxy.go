package metrics

import (
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/render"
)

// ownMetrics are those that kube-proxy has not.
type ownMetrics struct {
	eventToCommit, commitDuration, batchOperations prometheus.Histogram
	repairs                                        prometheus.Counter
	quarantined, conflicts, refusedAddresses       prometheus.Gauge
}

// fastBuckets are for what takes a fraction of a millisecond: 0.1 ms to 13 s, each twice the one before.
func fastBuckets() []float64 { return prometheus.ExponentialBuckets(0.0001, 2, 18) }

func newOwnMetrics() ownMetrics {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "nfproxy", Name: name, Help: help, Buckets: buckets})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "nfproxy", Name: name, Help: help})
	}
	return ownMetrics{
		eventToCommit: histogram("event_to_commit_seconds",
			"Time from the first of a round's changes reaching this machine to the kernel having them.", fastBuckets()),
		commitDuration: histogram("commit_duration_seconds",
			"Time that a round took that sent the kernel something: rendering, reading if it had to, and the transaction.", fastBuckets()),
		batchOperations: histogram("batch_operations",
			"Elements added and deleted by one transaction.", prometheus.ExponentialBuckets(1, 4, 12)),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "nfproxy", Name: "repairs_total",
			Help: "How often what others had changed in the tables was repaired."}),
		quarantined: gauge("quarantined_services", "Services that the kernel refuses; they keep what they had."),
		conflicts:   gauge("conflicting_frontends", "Frontends that more than one Service claims."),
		refusedAddresses: gauge("refused_addresses",
			"External and load balancer addresses that Services name and this node is set not to serve."),
	}
}

func (o ownMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.eventToCommit, o.commitDuration, o.batchOperations, o.repairs, o.quarantined, o.conflicts, o.refusedAddresses}
}

// newBuildInfo is not called kubernetes_build_info: the alert on components of different Kubernetes versions goes by that.
func newBuildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "nfproxy", Name: "build_info",
		Help:        "Always 1, with the versions of nfproxy, of the shape of its tables, and of Go.",
		ConstLabels: prometheus.Labels{"version": version, "schema": strconv.Itoa(render.SchemaVersion), "go_version": runtime.Version()}})
	info.Set(1)
	return info
}
