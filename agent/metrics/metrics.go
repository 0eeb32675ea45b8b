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

// Recorder keeps what Prometheus can ask for; docs/metrics.md has it one by one. A nil one does nothing, and has
// no Handler. Updated and Committed are for the proxy's loop alone, the others may be called by anybody.
type Recorder struct {
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

// Round is one that brought the kernel to where it should be.
type Round struct {
	Operations int // elements added and deleted
	Took       time.Duration
	// Seen is when the first of its changes reached this machine, zero if none came from a source; Triggered when they
	// happened in the cluster.
	Seen      time.Time
	Triggered []time.Time
	// Full says that the tables were read and compared, not just changed.
	Full bool
}

// New returns a recorder with a registry of its own, which has Go's and the process' metrics as well, and version, that of
// nfproxy.
func New(version string) *Recorder {
	r := &Recorder{
		registry:  prometheus.NewRegistry(),
		now:       time.Now,
		started:   time.Now(),
		kubeProxy: newPeerMetrics(),
		own:       newOwnMetrics(),
		client:    newClientMetrics(),
		changes:   newChangeCounter(),
		noLocal:   newNoLocalTally(),
	}
	r.registry.MustRegister(collectors.NewGoCollector(), newBuildInfo(version),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.registry.MustRegister(r.kubeProxy.collectors()...)
	r.registry.MustRegister(r.own.collectors()...)
	r.registry.MustRegister(r.client.collectors()...)
	setBoth(r.kubeProxy.lastQueued, unixSeconds(r.started)) // as kube-proxy does: waiting for the source is waiting
	return r
}

// Handler answers with everything, as Prometheus reads it. What goes wrong on the way is logged.
func (r *Recorder) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling: promhttp.ContinueOnError, // what can be told is told
	})
}

// Updated counts what an update brings that has yet to be programmed.
func (r *Recorder) Updated(u render.Update) {
	if r == nil {
		return
	}
	services, endpoints := r.changes.take(u)
	r.kubeProxy.serviceChanges.Add(float64(services))
	r.kubeProxy.servicePending.Add(float64(services))
	r.kubeProxy.endpointChanges.Add(float64(endpoints))
	r.kubeProxy.endpointPending.Add(float64(endpoints))
	r.noLocal.take(u)
	setBoth(r.kubeProxy.lastQueued, unixSeconds(r.now()))
}

// Committed notes that the kernel has everything there was to program. It is to be called also when that was nothing: the
// last sync is the answer to the last update.
func (r *Recorder) Committed(done Round) {
	if r == nil {
		return
	}
	now := r.now()
	r.kubeProxy.synced(done, now, r.started)
	for key, n := range r.noLocal.totals {
		r.kubeProxy.noLocalEndpoints.WithLabelValues(key.policy, ipFamily(key.family)).Set(float64(n))
	}
	if done.Operations == 0 {
		return
	}
	r.own.batchOperations.Observe(float64(done.Operations))
	r.own.commitDuration.Observe(done.Took.Seconds())
	if !done.Seen.IsZero() {
		r.own.eventToCommit.Observe(now.Sub(done.Seen).Seconds())
	}
}

// Failed counts an attempt after which the kernel has not what it should.
func (r *Recorder) Failed() {
	if r == nil {
		return
	}
	for _, family := range ipFamilies() {
		r.kubeProxy.syncFailures.WithLabelValues(family).Inc()
	}
}

// Repaired counts that something was wrong after others had changed the tables, and is right again.
func (r *Recorder) Repaired() {
	if r != nil {
		r.own.repairs.Inc()
	}
}

// Quarantined says how many Services are in quarantine now.
func (r *Recorder) Quarantined(n int) {
	if r != nil {
		r.own.quarantined.Set(float64(n))
	}
}

// Conflicts says how many frontends more than one Service claims now.
func (r *Recorder) Conflicts(n int) {
	if r != nil {
		r.own.conflicts.Set(float64(n))
	}
}

// RefusedAddresses says how many addresses Services name that this node is set not to serve.
func (r *Recorder) RefusedAddresses(n int) {
	if r != nil {
		r.own.refusedAddresses.Set(float64(n))
	}
}

// Swept notes a sweep of the connection tracking: how many entries of the family it deleted and how long it took.
func (r *Recorder) Swept(family nft.Family, deleted int, took time.Duration) {
	if r == nil {
		return
	}
	r.kubeProxy.sweepDuration.WithLabelValues(ipFamily(family)).Observe(took.Seconds())
	r.kubeProxy.sweepDeleted.WithLabelValues(ipFamily(family)).Add(float64(deleted))
}

// HealthzAnswered and LivezAnswered count the answers of the node's health by their HTTP status.
func (r *Recorder) HealthzAnswered(code int) {
	if r != nil {
		r.kubeProxy.healthz.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}

func (r *Recorder) LivezAnswered(code int) {
	if r != nil {
		r.kubeProxy.livez.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}
