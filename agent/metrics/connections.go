package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/render"

	"nfproxy/report"
)

// connections asks the kernel's counters when it is asked itself.
type connections struct {
	read                     func() (report.Description, error)
	served, refused, dropped *prometheus.Desc
	endpoint                 *prometheus.Desc
	perEndpoint              bool
}

// CountConnections has the connections of Services counted, as the kernel does, by what read returns when somebody asks;
// and by endpoint, if the kernel counts them.
func (r *Recorder) CountConnections(by render.Counters, read func() (report.Description, error)) {
	if r == nil || by == render.CountNothing {
		return
	}
	labels := []string{"namespace", "service", "port", "protocol", "kind"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("nfproxy_"+name, help, labels, nil)
	}
	r.registry.MustRegister(&connections{
		read:     read,
		served:   desc("service_connections_total", "Connections to a Service port that an endpoint was chosen for.", labels...),
		refused:  desc("service_refused_connections_total", "Connections to a Service port without endpoints: refused.", labels...),
		dropped:  desc("service_dropped_connections_total", "Connections to a Service port that a policy or a source range did not let in.", labels...),
		endpoint: desc("endpoint_connections_total", "Connections to a Service port by the endpoint chosen.", append(labels, "endpoint")...),

		perEndpoint: by == render.CountEndpoints,
	})
}

// Describe is there for prometheus.Collector.
func (c *connections) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.served
	ch <- c.refused
	ch <- c.dropped
	if c.perEndpoint {
		ch <- c.endpoint
	}
}

// Collect is there for prometheus.Collector.
func (c *connections) Collect(ch chan<- prometheus.Metric) {
	description, err := c.read()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.served, err)
		return
	}
	for _, s := range description.Services {
		tallies := make(map[render.Kind]report.Tally)
		endpoints := make(map[endpointKey]uint64)
		for _, f := range s.Frontends {
			tallies[f.Kind] = tallies[f.Kind].Plus(f.Tally())
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
		}
		for e, n := range endpoints {
			ch <- prometheus.MustNewConstMetric(c.endpoint, prometheus.CounterValue, float64(n), labels(string(e.kind), e.address)...)
		}
	}
}

// endpointKey is an endpoint behind one kind of frontends.
type endpointKey struct {
	kind    render.Kind
	address string
}

func allEndpoints(f report.Frontend) []report.Endpoint {
	if f.LocalEndpoints == nil {
		return f.Endpoints
	}
	return append(f.Endpoints, *f.LocalEndpoints...)
}
