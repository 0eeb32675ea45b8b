package watcher

import (
	"cmp"
	"net/netip"
	"slices"

	"nfproxy/render"
)

// join makes one value of a Service and its EndpointSlices. Equal inputs give equal values, in whatever order the slices
// come: ports are in the Service's order, endpoints are sorted. What was wrong with them is in their problems.
func join(svc *service, from []*slice) render.Service {
	from = slices.SortedFunc(slices.Values(from), func(a, b *slice) int { return cmp.Compare(a.name, b.name) })
	joined := render.Service{
		ServiceName:         svc.ServiceName,
		Created:             svc.created,
		ClusterIPs:          svc.clusterIPs,
		ExternalIPs:         svc.externalIPs,
		LoadBalancerIPs:     svc.loadBalancerIPs,
		SourceRanges:        svc.sourceRanges,
		InternalLocal:       svc.internalLocal,
		ExternalLocal:       svc.externalLocal,
		HealthCheckNodePort: svc.healthCheckNodePort,
		Affinity:            svc.affinity,
	}
	for _, p := range svc.ports {
		joined.Ports = append(joined.Ports, render.Port{
			Name:      p.name,
			Protocol:  p.protocol,
			Port:      p.port,
			NodePort:  p.nodePort,
			Endpoints: endpoints(p, from),
		})
	}
	return joined
}

// endpoints returns what the slices offer for one Service port, sorted, each address and port once. While a pod moves
// from one slice to another both have it for a moment: one that is not terminating wins, as with kube-proxy, then one
// that is ready.
func endpoints(port servicePort, from []*slice) []render.Endpoint {
	var all []render.Endpoint
	for _, s := range from {
		for _, p := range s.ports {
			if p.name != port.name || p.protocol != port.protocol {
				continue
			}
			all = slices.Grow(all, len(s.endpoints))
			for _, e := range s.endpoints {
				all = append(all, render.Endpoint{
					AddrPort:    netip.AddrPortFrom(e.addr, p.port),
					Node:        e.node,
					Ready:       e.ready,
					Serving:     e.serving,
					Terminating: e.terminating,
					Hints:       e.hints,
				})
			}
		}
	}
	// The sort is stable: of equals the first in slice and index order stays first.
	slices.SortStableFunc(all, func(a, b render.Endpoint) int {
		return cmp.Or(
			a.AddrPort.Compare(b.AddrPort),
			falseFirst(a.Terminating, b.Terminating),
			falseFirst(!a.Ready, !b.Ready),
		)
	})
	return slices.CompactFunc(all, func(a, b render.Endpoint) bool { return a.AddrPort == b.AddrPort })
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// same tells whether two joined Services are one to render. Both come from join, so order counts.
func same(a, b render.Service) bool {
	return a.ServiceName == b.ServiceName && a.Created.Equal(b.Created) &&
		slices.Equal(a.ClusterIPs, b.ClusterIPs) && slices.Equal(a.ExternalIPs, b.ExternalIPs) &&
		slices.Equal(a.LoadBalancerIPs, b.LoadBalancerIPs) && slices.Equal(a.SourceRanges, b.SourceRanges) &&
		a.InternalLocal == b.InternalLocal && a.ExternalLocal == b.ExternalLocal &&
		a.HealthCheckNodePort == b.HealthCheckNodePort && a.Affinity == b.Affinity &&
		slices.EqualFunc(a.Ports, b.Ports, samePort)
}

func samePort(a, b render.Port) bool {
	return a.Name == b.Name && a.Protocol == b.Protocol && a.Port == b.Port && a.NodePort == b.NodePort &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, sameEndpoint)
}

func sameEndpoint(a, b render.Endpoint) bool {
	hints := sameHints(a.Hints, b.Hints)
	a.Hints, b.Hints = nil, nil
	return hints && a == b
}

func sameHints(a, b *render.Hints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Zones, b.Zones) && slices.Equal(a.Nodes, b.Nodes)
}
