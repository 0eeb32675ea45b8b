package metrics

import (
	"context"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientgo "k8s.io/client-go/tools/metrics"
)

// clientMetrics are the metrics of requests to the API server, with the names that all Kubernetes components use
// (k8s.io/component-base/metrics/prometheus/restclient, which supports only a global registry).
type clientMetrics struct {
	duration, throttled requestDurations
	sent, received      requestSizes
	results             requestResults
	retries             requestRetries
}

// Implementations of client-go's metrics interfaces.
type (
	requestDurations struct{ *prometheus.HistogramVec }
	requestSizes     struct{ *prometheus.HistogramVec }
	requestResults   struct{ *prometheus.CounterVec }
	requestRetries   struct{ *prometheus.CounterVec }
)

func (d requestDurations) Observe(_ context.Context, verb string, u url.URL, took time.Duration) {
	d.WithLabelValues(verb, u.Host).Observe(took.Seconds())
}

func (s requestSizes) Observe(_ context.Context, verb, host string, bytes float64) {
	s.WithLabelValues(verb, host).Observe(bytes)
}

func (r requestResults) Increment(_ context.Context, code, method, host string) {
	r.WithLabelValues(code, method, host).Inc()
}

func (r requestRetries) IncrementRetry(_ context.Context, code, verb, host string) {
	r.WithLabelValues(code, verb, host).Inc()
}

func newClientMetrics() clientMetrics {
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "rest_client", Name: name, Help: help, Buckets: buckets},
			[]string{"verb", "host"})
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "rest_client", Name: name, Help: help}, labels)
	}
	durations := []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}
	sizes := []float64{64, 256, 512, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}
	return clientMetrics{
		duration:  requestDurations{histogram("request_duration_seconds", "Duration of requests to the API server, by verb and host.", durations)},
		throttled: requestDurations{histogram("rate_limiter_duration_seconds", "Time that requests waited for the rate limiter of the client, by verb and host.", durations)},
		sent:      requestSizes{histogram("request_size_bytes", "Size of request bodies, by verb and host.", sizes)},
		received:  requestSizes{histogram("response_size_bytes", "Size of response bodies, by verb and host.", sizes)},
		results:   requestResults{counter("requests_total", "Requests to the API server by HTTP status code, method and host.", "code", "method", "host")},
		retries:   requestRetries{counter("request_retries_total", "Retries of requests, by HTTP status code, verb and host.", "code", "verb", "host")},
	}
}

func (c clientMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.duration, c.throttled, c.sent, c.received, c.results, c.retries}
}

// WatchClients makes the recorder count the requests of all Kubernetes clients in this process. It must return before the first
// of them sends a request, because client-go reads the registration without a lock. client-go accepts one registration per
// process, so a second call has no effect.
func (r *Recorder) WatchClients() {
	if r == nil {
		return
	}
	clientgo.Register(clientgo.RegisterOpts{
		RequestLatency:     r.client.duration,
		RateLimiterLatency: r.client.throttled,
		RequestSize:        r.client.sent,
		ResponseSize:       r.client.received,
		RequestResult:      r.client.results,
		RequestRetry:       r.client.retries,
	})
}
