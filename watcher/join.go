package watcher

import (
	"cmp"
	"net/netip"
	"slices"

	"nfproxy/nft"
	"nfproxy/render"
)

// join combines a Service and its EndpointSlices. The result does not depend on the order of the slices: ports are in the
// Service's order, endpoints are sorted. If a Service has more endpoints than the node may join, those of all ports together, none
// is: each port of a slice multiplies its endpoints.
func join(n render.Node, svc *service, from []*slice) render.Service {
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
	if !render.EndpointsWithinBound(n, countEndpoints(svc.ports, from)) {
		return render.Unported(joined)
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

// countEndpoints returns the number of endpoints that ports have in EndpointSlices, each as often as it is there.
func countEndpoints(ports []servicePort, from []*slice) (count int) {
	type key struct {
		name     string
		protocol nft.Protocol
	}
	has := make(map[key]bool, len(ports))
	for _, p := range ports {
		has[key{p.name, p.protocol}] = true
	}
	for _, s := range from {
		for _, p := range s.ports {
			if has[key{p.name, p.protocol}] {
				count += len(s.endpoints)
			}
		}
	}
	return count
}

// endpoints returns the endpoints of one Service port, sorted by address and port, each address and port once. While the
// controller moves an endpoint from one slice to another, both contain it for a moment. Then one that is not terminating is
// preferred, as in kube-proxy, and then one that is ready.
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
	// The sort is stable: of equal endpoints the first by slice name and index is kept.
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

// equal reports whether two joined Services are rendered alike. The order of lists counts, because both are results of join.
func equal(a, b render.Service) bool {
	return a.ServiceName == b.ServiceName && a.Created.Equal(b.Created) &&
		slices.Equal(a.ClusterIPs, b.ClusterIPs) && slices.Equal(a.ExternalIPs, b.ExternalIPs) &&
		slices.Equal(a.LoadBalancerIPs, b.LoadBalancerIPs) && slices.Equal(a.SourceRanges, b.SourceRanges) &&
		a.InternalLocal == b.InternalLocal && a.ExternalLocal == b.ExternalLocal &&
		a.HealthCheckNodePort == b.HealthCheckNodePort && a.Affinity == b.Affinity && a.Excess == b.Excess && slices.Equal(a.Unserved, b.Unserved) &&
		slices.EqualFunc(a.Ports, b.Ports, equalPorts)
}

func equalPorts(a, b render.Port) bool {
	return a.Name == b.Name && a.Protocol == b.Protocol && a.Port == b.Port && a.NodePort == b.NodePort &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, equalEndpoints)
}

func equalEndpoints(a, b render.Endpoint) bool {
	hints := equalHints(a.Hints, b.Hints)
	a.Hints, b.Hints = nil, nil
	return hints && a == b
}

func equalHints(a, b *render.Hints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Zones, b.Zones) && slices.Equal(a.Nodes, b.Nodes)
}
