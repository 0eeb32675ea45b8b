package metrics

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"nfproxy/nft"
	"nfproxy/render"
)

// Recorder holds the daemon's metrics; docs/metrics.md lists them. The methods of a nil Recorder do nothing, except Handler,
// which must not be called. Updated, Committed and Failed must be called from one goroutine, the daemon's loop. All other methods
// are safe for concurrent use.
type Recorder struct {
	registry  *prometheus.Registry
	now       func() time.Time
	started   time.Time
	kubeProxy kubeProxyMetrics
	nfproxy   nfproxyMetrics
	client    clientMetrics
	// Only Updated, Committed and Failed use the following fields.
	queued   time.Time // when the last change was queued
	inSync   bool      // a round has succeeded, and none has failed since
	noLocal  noLocalCounter
	features featureCounter
}

// Round describes a round that brought the kernel's tables to the desired state.
type Round struct {
	Operations int // elements added and deleted
	Took       time.Duration
	// Seen is the time when the first change of the round arrived on this node; it is zero if no change came from a source.
	Seen time.Time
	// Triggered are the times when the round's changes of endpoints happened in the cluster.
	Triggered []time.Time
	// Full reports whether the round read the kernel's tables and compared them, instead of sending only changes.
	Full bool
}

// New returns a recorder with its own registry, which includes the metrics of the Go runtime and of the process. The version
// is nfproxy's.
func New(version string) *Recorder {
	r := &Recorder{
		registry:  prometheus.NewRegistry(),
		now:       time.Now,
		started:   time.Now(),
		kubeProxy: newKubeProxyMetrics(),
		nfproxy:   newNfproxyMetrics(),
		client:    newClientMetrics(),
		noLocal:   newNoLocalCounter(),
		features:  newFeatureCounter(),
	}
	r.registry.MustRegister(collectors.NewGoCollector(), newBuildInfo(version),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.registry.MustRegister(r.kubeProxy.collectors()...)
	r.registry.MustRegister(r.nfproxy.collectors()...)
	r.registry.MustRegister(r.client.collectors()...)
	r.registry.MustRegister(r.features.services)
	r.queued = r.started
	setBoth(r.kubeProxy.lastQueued, unixSeconds(r.queued)) // as in kube-proxy: the first sync is pending from the start
	return r
}

// Handler returns the handler of /metrics. It logs errors and leaves out the metrics that caused them.
func (r *Recorder) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling: promhttp.ContinueOnError,
	})
}

// Updated records the changes of an update, which are pending until the next call of Committed.
func (r *Recorder) Updated(u render.Update) {
	if r == nil {
		return
	}
	r.kubeProxy.serviceChanges.Add(float64(u.ServiceChanges))
	r.kubeProxy.servicePending.Add(float64(u.ServiceChanges))
	r.kubeProxy.endpointChanges.Add(float64(u.EndpointChanges))
	r.kubeProxy.endpointPending.Add(float64(u.EndpointChanges))
	r.noLocal.update(u)
	r.features.update(u)
	r.queued = r.now()
	setBoth(r.kubeProxy.lastQueued, unixSeconds(r.queued))
}

// Committed records that the kernel has all changes so far. It must also be called after a round that sent nothing, because
// the metric for the last sync must not be older than the last update.
func (r *Recorder) Committed(done Round) {
	if r == nil {
		return
	}
	now := r.now()
	r.kubeProxy.observeRound(done, now, r.started)
	// If the clock has been set meanwhile, the change would seem to be queued after the round, or long before.
	setBoth(r.kubeProxy.lastQueued, unixSeconds(now.Add(-now.Sub(r.queued))))
	for key, n := range r.noLocal.totals {
		r.kubeProxy.noLocalEndpoints.WithLabelValues(key.policy, ipFamily(key.family)).Set(float64(n))
	}
	if !r.inSync {
		r.inSync = true
		r.nfproxy.inSyncSince.Set(unixSeconds(now))
	}
	if done.Operations == 0 {
		return
	}
	r.nfproxy.lastCommit.Set(unixSeconds(now))
	r.nfproxy.batchOperations.Observe(float64(done.Operations))
	r.nfproxy.commitDuration.Observe(done.Took.Seconds())
	if !done.Seen.IsZero() {
		r.nfproxy.eventToCommit.Observe(now.Sub(done.Seen).Seconds())
	}
}

// Failed counts a round that failed, so that the kernel does not have the desired state.
func (r *Recorder) Failed() {
	if r == nil {
		return
	}
	for _, family := range ipFamilies() {
		r.kubeProxy.syncFailures.WithLabelValues(family).Inc()
	}
	r.inSync = false
	r.nfproxy.inSyncSince.Set(0)
}

// Repaired counts a repair of the tables after another program changed them.
func (r *Recorder) Repaired() {
	if r != nil {
		r.nfproxy.repairs.Inc()
	}
}

// Compared counts a periodic comparison with the kernel's tables.
func (r *Recorder) Compared(result ComparisonResult) {
	if r != nil {
		r.nfproxy.comparisons.WithLabelValues(string(result)).Inc()
	}
}

// Services sets the number of Services that have rules.
func (r *Recorder) Services(n int) {
	if r != nil {
		r.nfproxy.services.Set(float64(n))
	}
}

// Quarantined sets the number of Services in quarantine.
func (r *Recorder) Quarantined(n int) {
	if r != nil {
		r.nfproxy.quarantined.Set(float64(n))
	}
}

// Conflicts sets the number of frontends that more than one Service claims.
func (r *Recorder) Conflicts(n int) {
	if r != nil {
		r.nfproxy.conflicts.Set(float64(n))
	}
}

// NotServed sets the number of addresses of Services that the configuration of this node disallows, the number of Services
// that cost more elements than one Service may, and the number of annotations that are ignored.
func (r *Recorder) NotServed(addresses, oversized, annotations int) {
	if r != nil {
		r.nfproxy.disallowedAddresses.Set(float64(addresses))
		r.nfproxy.oversized.Set(float64(oversized))
		r.nfproxy.ignoredAnnotations.Set(float64(annotations))
	}
}

// ConntrackCleaned records a conntrack cleanup: the number of deleted entries of the family, and the duration.
func (r *Recorder) ConntrackCleaned(family nft.Family, deleted int, took time.Duration) {
	if r == nil {
		return
	}
	r.kubeProxy.cleanupDuration.WithLabelValues(ipFamily(family)).Observe(took.Seconds())
	r.kubeProxy.cleanupDeleted.WithLabelValues(ipFamily(family)).Add(float64(deleted))
}

// CountResets adds the metric that ConnectionsReset counts.
func (r *Recorder) CountResets() {
	if r != nil {
		r.registry.MustRegister(r.nfproxy.resets)
	}
}

// ConnectionsReset counts connections to endpoints that are gone whose conntrack entries were deleted.
func (r *Recorder) ConnectionsReset(family nft.Family, deleted int) {
	if r != nil {
		r.nfproxy.resets.WithLabelValues(ipFamily(family)).Add(float64(deleted))
	}
}

// HealthzAnswered counts a response of /healthz by its HTTP status code.
func (r *Recorder) HealthzAnswered(code int) {
	if r != nil {
		r.kubeProxy.healthz.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

// LivezAnswered counts a response of /livez by its HTTP status code.
func (r *Recorder) LivezAnswered(code int) {
	if r != nil {
		r.kubeProxy.livez.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}
