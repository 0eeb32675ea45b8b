package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/render"
)

// feature is what a Service asks for by an annotation, a value of the label feature.
type feature string

const (
	limits            feature = "limits"
	hashedClients     feature = "maglev_client"
	hashedConnections feature = "maglev_connection"
	slowStart         feature = "slow_start"
	weights           feature = "weights"
)

// featureCounter counts the Services that use each feature. Only those that use one take memory.
type featureCounter struct {
	of       map[render.ServiceName][]feature
	services *prometheus.GaugeVec
}

func newFeatureCounter() featureCounter {
	c := featureCounter{make(map[render.ServiceName][]feature), prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "nfproxy", Name: "service_features",
		Help: "Services that ask by an annotation for limits on new connections, or for another choice of endpoints than at random with equal chances."}, []string{"feature"})}
	for _, f := range []feature{limits, hashedClients, hashedConnections, slowStart, weights} {
		c.services.WithLabelValues(string(f))
	}
	return c
}

// update applies an update.
func (c *featureCounter) update(u render.Update) {
	for _, name := range u.Removed {
		c.set(name, nil)
	}
	for _, s := range u.Services {
		c.set(s.ServiceName, featuresOf(s))
	}
}

// set replaces the features of a Service.
func (c *featureCounter) set(name render.ServiceName, now []feature) {
	had := c.of[name]
	if slices.Equal(had, now) {
		return
	}
	for _, f := range had {
		c.services.WithLabelValues(string(f)).Dec()
	}
	for _, f := range now {
		c.services.WithLabelValues(string(f)).Inc()
	}
	if c.of[name] = now; now == nil {
		delete(c.of, name)
	}
}

// featuresOf returns the features that a Service uses, nil for none. Weights count if an endpoint has another one than 1.
func featuresOf(s render.Service) (all []feature) {
	if s.Limits != (render.Limits{}) {
		all = append(all, limits)
	}
	switch s.Hashing {
	case render.HashClients:
		all = append(all, hashedClients)
	case render.HashConnections:
		all = append(all, hashedConnections)
	}
	if s.SlowStart > 0 {
		all = append(all, slowStart)
	}
	weighted := func(e render.Endpoint) bool { return e.Drained || e.Weight > 1 }
	if slices.ContainsFunc(s.Ports, func(p render.Port) bool { return slices.ContainsFunc(p.Endpoints, weighted) }) {
		all = append(all, weights)
	}
	return all
}
