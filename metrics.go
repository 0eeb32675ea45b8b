package main

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"nfproxy/nft"
	"nfproxy/render"
)

// metrics are what Prometheus can ask for; docs/metrics.md has them one by one. A nil one does nothing. updated and
// committed are for the proxy's loop alone, the others may be called by anybody.
type metrics struct {
	registry  *prometheus.Registry
	now       func() time.Time
	started   time.Time
	kubeProxy peerMetrics
	own       ownMetrics
	client    clientMetrics
	// The rest belongs to the loop.
	changes changeCounter
	noLocal noLocalTally
}

// ownMetrics are those that kube-proxy has not.
type ownMetrics struct {
	eventToCommit, commitDuration, batchOperations prometheus.Histogram
	repairs                                        prometheus.Counter
	quarantined, conflicts                         prometheus.Gauge
}

// newMetrics returns metrics in a registry of their own, with those of Go and of the process.
func newMetrics() *metrics {
	m := &metrics{
		registry:  prometheus.NewRegistry(),
		now:       time.Now,
		started:   time.Now(),
		kubeProxy: newPeerMetrics(),
		own:       newOwnMetrics(),
		client:    newClientMetrics(),
		changes:   newChangeCounter(),
		noLocal:   newNoLocalTally(),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), newBuildInfo(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.kubeProxy.collectors()...)
	m.registry.MustRegister(m.own.collectors()...)
	m.registry.MustRegister(m.client.collectors()...)
	setBoth(m.kubeProxy.lastQueued, unixSeconds(m.started)) // as kube-proxy does: waiting for the source is waiting
	return m
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
	}
}

func (o ownMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.eventToCommit, o.commitDuration, o.batchOperations, o.repairs, o.quarantined, o.conflicts}
}

// newBuildInfo is not called kubernetes_build_info: the alert on components of different Kubernetes versions goes by that.
func newBuildInfo() prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "nfproxy", Name: "build_info",
		Help:        "Always 1, with the versions of nfproxy, of the shape of its tables, and of Go.",
		ConstLabels: prometheus.Labels{"version": version, "schema": strconv.Itoa(render.Schema), "go_version": runtime.Version()}})
	info.Set(1)
	return info
}

// updated counts what an update brings that has yet to be programmed.
func (m *metrics) updated(u render.Update) {
	if m == nil {
		return
	}
	services, endpoints := m.changes.take(u)
	m.kubeProxy.serviceChanges.Add(float64(services))
	m.kubeProxy.servicePending.Add(float64(services))
	m.kubeProxy.endpointChanges.Add(float64(endpoints))
	m.kubeProxy.endpointPending.Add(float64(endpoints))
	m.noLocal.take(u)
	setBoth(m.kubeProxy.lastQueued, unixSeconds(m.now()))
}

// committed notes that the kernel has everything there was to program. It is to be called also when that was nothing: the
// last sync is the answer to the last update. full says that the tables were read and compared, not just changed.
func (m *metrics) committed(c commit, full bool) {
	if m == nil {
		return
	}
	now := m.now()
	m.kubeProxy.synced(c, full, now, m.started)
	for key, n := range m.noLocal.totals {
		m.kubeProxy.noLocalEndpoints.WithLabelValues(key.policy, ipFamily(key.family)).Set(float64(n))
	}
	if c.operations == 0 {
		return
	}
	m.own.batchOperations.Observe(float64(c.operations))
	m.own.commitDuration.Observe(c.took.Seconds())
	if !c.seen.IsZero() {
		m.own.eventToCommit.Observe(now.Sub(c.seen).Seconds())
	}
}

// failed counts an attempt after which the kernel has not what it should.
func (m *metrics) failed() {
	if m == nil {
		return
	}
	for _, family := range ipFamilies() {
		m.kubeProxy.syncFailures.WithLabelValues(family).Inc()
	}
}

// repaired counts that something was wrong after others had changed the tables, and is right again.
func (m *metrics) repaired() {
	if m != nil {
		m.own.repairs.Inc()
	}
}

// quarantined says how many Services are in quarantine now.
func (m *metrics) quarantined(n int) {
	if m != nil {
		m.own.quarantined.Set(float64(n))
	}
}

// conflicts says how many frontends more than one Service claims now.
func (m *metrics) conflicts(n int) {
	if m != nil {
		m.own.conflicts.Set(float64(n))
	}
}

// swept notes a sweep of the connection tracking: how many entries of the family it deleted and how long it took.
func (m *metrics) swept(family nft.Family, deleted int, took time.Duration) {
	if m == nil {
		return
	}
	m.kubeProxy.sweepDuration.WithLabelValues(ipFamily(family)).Observe(took.Seconds())
	m.kubeProxy.sweepDeleted.WithLabelValues(ipFamily(family)).Add(float64(deleted))
}

// healthzAnswered and livezAnswered count the answers of the node's health by their HTTP status.
func (m *metrics) healthzAnswered(code int) {
	if m != nil {
		m.kubeProxy.healthz.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

func (m *metrics) livezAnswered(code int) {
	if m != nil {
		m.kubeProxy.livez.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}
