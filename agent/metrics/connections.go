package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/render"
	"nfproxy/report"
)

// connectionsCollector reads the kernel's counters on each scrape.
type connectionsCollector struct {
	read                     func() (report.Description, error)
	served, refused, dropped *prometheus.Desc
	overLimit                *prometheus.Desc // of Services with limits
	endpoint                 *prometheus.Desc
	perEndpoint              bool
}

// CountConnections adds the metrics of connections to Services. Each scrape calls read, which returns the kernel's counters.
// The level decides which counters the kernel has: none, those of Services, or those of endpoints as well.
func (r *Recorder) CountConnections(level render.Counters, read func() (report.Description, error)) {
	if r == nil || level == render.CountNothing {
		return
	}
	labels := []string{"namespace", "service", "port", "protocol", "kind"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("nfproxy_"+name, help, labels, nil)
	}
	r.registry.MustRegister(&connectionsCollector{
		read:    read,
		served:  desc("service_connections_total", "Connections to a Service port that were sent to an endpoint.", labels...),
		refused: desc("service_refused_connections_total", "Connections to a Service port that were refused because it has no endpoints, or because they exceeded a limit.", labels...),
		dropped: desc("service_dropped_connections_total", "Connections to a Service port that were dropped by a traffic policy, a source range or a limit.", labels...),
		overLimit: desc("service_over_limit_connections_total",
			"Connections to a Service port that were refused or dropped because they exceeded a limit of the Service.", labels...),
		endpoint: desc("endpoint_connections_total", "Connections to a Service port by endpoint.", append(labels, "endpoint")...),

		perEndpoint: level == render.CountEndpoints,
	})
}

// Describe implements prometheus.Collector.
func (c *connectionsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.served
	ch <- c.refused
	ch <- c.dropped
	ch <- c.overLimit
	if c.perEndpoint {
		ch <- c.endpoint
	}
}

// Collect implements prometheus.Collector.
func (c *connectionsCollector) Collect(ch chan<- prometheus.Metric) {
	description, err := c.read()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.served, err)
		return
	}
	for _, s := range description.Services {
		tallies, limited := make(map[render.Kind]report.Tally), false
		endpoints := make(map[endpointKey]uint64)
		for _, f := range s.Frontends {
			tallies[f.Kind] = tallies[f.Kind].Plus(f.Tally())
			limited = limited || f.Limits != nil
			for _, e := range allEndpoints(f) {
				if e.Connections != nil {
					endpoints[endpointKey{f.Kind, e.String()}] += *e.Connections
				}
			}
		}
		labels := func(more ...string) []string {
			return append([]string{s.Namespace, s.Name, s.Port, s.Protocol}, more...)
		}
		for kind, t := range tallies {
			for desc, n := range map[*prometheus.Desc]uint64{c.served: t.Served, c.refused: t.Refused, c.dropped: t.Dropped} {
				ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels(string(kind))...)
			}
			if limited {
				ch <- prometheus.MustNewConstMetric(c.overLimit, prometheus.CounterValue, float64(t.OverLimit), labels(string(kind))...)
			}
		}
		for e, n := range endpoints {
			ch <- prometheus.MustNewConstMetric(c.endpoint, prometheus.CounterValue, float64(n), labels(string(e.kind), e.address)...)
		}
	}
}

// endpointKey is an endpoint and the kind of the frontends that lead to it.
type endpointKey struct {
	kind    render.Kind
	address string
}

// allEndpoints returns the frontend's endpoints and, with external traffic policy Local, the local endpoints that external
// clients reach.
func allEndpoints(f report.Frontend) []report.Endpoint {
	if f.LocalEndpoints == nil {
		return f.Endpoints
	}
	return append(f.Endpoints, *f.LocalEndpoints...)
}
