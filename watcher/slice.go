package watcher

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/render"
)

// slice is an EndpointSlice reduced to what its Service needs. It never changes.
type slice struct {
	namespace, name string
	// service is the name of its Service, empty if the slice is not used.
	service string
	ports   []slicePort
	// endpoints are sorted by address, each address once, with the number of the first port. They are shared with joined Services.
	endpoints []render.Endpoint
	weight    weight // of the endpoints
	// triggered is the time of the event that caused the last change of the slice, zero if it is unknown.
	triggered time.Time
	problems  []Problem
}

// serviceName returns the name of the slice's Service.
func (s *slice) serviceName() render.ServiceName {
	return render.ServiceName{Namespace: s.namespace, Name: s.service}
}

// equal reports whether two slices are equal but for the trigger time.
func (s *slice) equal(other *slice) bool {
	return s.namespace == other.namespace && s.name == other.name && s.service == other.service && slices.Equal(s.ports, other.ports) &&
		slices.EqualFunc(s.endpoints, other.endpoints, equalEndpoints) && slices.Equal(s.problems, other.problems)
}

// at returns the endpoints of the slice with a port number.
func (s *slice) at(port uint16) []render.Endpoint {
	if len(s.endpoints) == 0 || s.endpoints[0].Port() == port {
		return s.endpoints
	}
	all := slices.Clone(s.endpoints)
	for i, e := range all {
		all[i].AddrPort = netip.AddrPortFrom(e.Addr(), port)
	}
	return all
}

// find returns the endpoint of the slice with an address, and false if there is none.
func (s *slice) find(addr netip.Addr) (render.Endpoint, bool) {
	i, ok := slices.BinarySearchFunc(s.endpoints, addr, func(e render.Endpoint, a netip.Addr) int { return e.Addr().Compare(a) })
	if !ok {
		return render.Endpoint{}, false
	}
	return s.endpoints[i], true
}

// reduceSlice reduces an EndpointSlice and records its problems. An invalid endpoint or port does not affect the others.
func reduceSlice(api *discoveryv1.EndpointSlice) *slice {
	s := &slice{namespace: namespace(api.Namespace), name: api.Name}
	problems := newProblemList(&s.problems, objectKey{sliceKind, s.namespace, s.name})
	if !usable(api, problems) {
		return s
	}
	s.service = api.Labels[discoveryv1.LabelServiceName]
	s.ports = reduceSlicePorts(api.Ports, problems)
	var first slicePort
	if len(s.ports) > 0 {
		first = s.ports[0]
	}
	s.weight = reduceWeight(api.Annotations, problems)
	reportUnknown(sliceKind, api.Annotations, problems)
	s.endpoints = reduceEndpoints(api, first.port, s.weight, problems)
	// A missing or invalid time gives the zero time. Only a metric depends on it.
	s.triggered, _ = time.Parse(time.RFC3339Nano, api.Annotations[corev1.EndpointsLastChangeTriggerTime])
	return s
}

// usable reports whether a slice can provide endpoints for a Service. kube-proxy uses the same slices (its informer's
// selector, and pkg/proxy/endpointschangetracker.go).
func usable(api *discoveryv1.EndpointSlice, problems problemList) bool {
	_, headless := api.Labels[corev1.IsHeadlessService]
	switch {
	case headless:
		problems.skip("metadata.labels", "the label "+corev1.IsHeadlessService+" marks its Service as headless")
	case api.Labels[discoveryv1.LabelServiceName] == "":
		problems.skip("metadata.labels", "the label "+discoveryv1.LabelServiceName+" is missing")
	case api.AddressType == discoveryv1.AddressTypeFQDN:
		problems.skip("addressType", "FQDN endpoints are not supported")
	case api.AddressType != discoveryv1.AddressTypeIPv4 && api.AddressType != discoveryv1.AddressTypeIPv6:
		problems.add("addressType", fmt.Sprintf("%q is not one of IPv4, IPv6, FQDN", api.AddressType))
	default:
		return true
	}
	return false
}

func reduceSlicePorts(api []discoveryv1.EndpointPort, problems problemList) []slicePort {
	var have []slicePort
	for i, p := range api {
		// In the API a port without a number means all ports. Like kube-proxy, nfproxy does not support that.
		if deref(p.Port) == 0 {
			continue
		}
		port, field, err := reducePort(deref(p.Name), string(deref(p.Protocol)), *p.Port)
		if err != nil {
			problems.add(fmt.Sprintf("ports[%d].%s", i, field), err.Error())
			continue
		}
		have = append(have, port)
	}
	return have
}

// reduceEndpoints returns the endpoints with a port number and a weight, sorted by address. Of an address that is there more than
// once, the preferred endpoint is kept.
func reduceEndpoints(api *discoveryv1.EndpointSlice, port uint16, w weight, problems problemList) []render.Endpoint {
	have := make([]render.Endpoint, 0, len(api.Endpoints))
	for i, e := range api.Endpoints {
		if len(e.Addresses) == 0 {
			problems.add(fmt.Sprintf("endpoints[%d].addresses", i), "no address")
			continue
		}
		// The API defines no meaning for further addresses.
		addr, err := parseAddr(e.Addresses[0])
		if err == nil && family(addr) != string(api.AddressType) {
			err = fmt.Errorf("%s does not match the addressType %s of the slice", addr, api.AddressType)
		}
		if err != nil {
			problems.add(fmt.Sprintf("endpoints[%d].addresses[0]", i), err.Error())
			continue
		}
		have = append(have, render.Endpoint{
			AddrPort:    netip.AddrPortFrom(addr, port),
			Node:        unique.Make(deref(e.NodeName)).Value(), // endpoints of one node share the name
			Ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
			Serving:     e.Conditions.Serving == nil || *e.Conditions.Serving,
			Terminating: deref(e.Conditions.Terminating),
			Weight:      w.share,
			Drained:     w.drained,
			Hints:       reduceHints(e.Hints),
		})
	}
	return uniqueEndpoints(have)
}

// reduceHints returns nil if the hints name neither a zone nor a node.
func reduceHints(api *discoveryv1.EndpointHints) *render.Hints {
	if api == nil {
		return nil
	}
	var h render.Hints
	for _, z := range api.ForZones {
		if z.Name != "" {
			h.Zones = append(h.Zones, z.Name)
		}
	}
	for _, n := range api.ForNodes {
		if n.Name != "" {
			h.Nodes = append(h.Nodes, n.Name)
		}
	}
	if h.Zones == nil && h.Nodes == nil {
		return nil
	}
	return &h
}

// deref returns the value at p, or the zero value if p is nil.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
