package watcher

import (
	"fmt"
	"net/netip"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/render"
)

// slice is an EndpointSlice reduced to what its Service needs.
type slice struct {
	namespace, name string
	// service is the name of its Service, empty if the slice is not used.
	service   string
	ports     []servicePort
	endpoints []sliceEndpoint
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
	a, b := *s, *other
	a.triggered, b.triggered = time.Time{}, time.Time{}
	return reflect.DeepEqual(a, b)
}

type sliceEndpoint struct {
	addr                        netip.Addr
	node                        string
	ready, serving, terminating bool
	// hints are shared with the joined Services and must not be modified.
	hints *render.Hints
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
	s.endpoints = reduceEndpoints(api, problems)
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

func reduceSlicePorts(api []discoveryv1.EndpointPort, problems problemList) []servicePort {
	var have []servicePort
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

func reduceEndpoints(api *discoveryv1.EndpointSlice, problems problemList) []sliceEndpoint {
	have := make([]sliceEndpoint, 0, len(api.Endpoints))
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
		have = append(have, sliceEndpoint{
			addr:        addr,
			node:        deref(e.NodeName),
			ready:       e.Conditions.Ready == nil || *e.Conditions.Ready,
			serving:     e.Conditions.Serving == nil || *e.Conditions.Serving,
			terminating: deref(e.Conditions.Terminating),
			hints:       reduceHints(e.Hints),
		})
	}
	return have
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
