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

// slice is what an EndpointSlice gives its Service.
type slice struct {
	namespace, name string
	// service is the name of the Service it belongs to, empty if the slice is of no use.
	service   string
	ports     []servicePort
	endpoints []sliceEndpoint
	// triggered is when what it was changed for happened, if that is known.
	triggered time.Time
	problems  []Problem
}

// of returns the name of its Service.
func (s *slice) of() render.ServiceName {
	return render.ServiceName{Namespace: s.namespace, Name: s.service}
}

// same tells whether another slice gives the same. When it was changed does not count.
func (s *slice) same(other *slice) bool {
	a, b := *s, *other
	a.triggered, b.triggered = time.Time{}, time.Time{}
	return reflect.DeepEqual(a, b)
}

type sliceEndpoint struct {
	addr                        netip.Addr
	node                        string
	ready, serving, terminating bool
	// hints are shared with every Service joined from them and never changed.
	hints *render.Hints
}

// reduceSlice takes from an EndpointSlice what the join needs, with every problem found on the way. An endpoint or a port
// that is wrong costs itself alone.
func reduceSlice(api *discoveryv1.EndpointSlice) *slice {
	s := &slice{namespace: namespace(api.Namespace), name: api.Name}
	note := noter(&s.problems, objectKey{"EndpointSlice", s.namespace, s.name})
	if !usable(api, note) {
		return s
	}
	s.service = api.Labels[discoveryv1.LabelServiceName]
	s.ports = reduceSlicePorts(api.Ports, note)
	s.endpoints = reduceEndpoints(api, note)
	// A time that cannot be read, or none, is the zero time: it is for metrics and costs nothing else.
	s.triggered, _ = time.Parse(time.RFC3339Nano, api.Annotations[corev1.EndpointsLastChangeTriggerTime])
	return s
}

// usable tells whether a slice can serve a Service; kube-proxy uses the same (its informer's selector and
// pkg/proxy/endpointschangetracker.go).
func usable(api *discoveryv1.EndpointSlice, note notes) bool {
	_, headless := api.Labels[corev1.IsHeadlessService]
	switch {
	case headless:
		note.skip("metadata.labels", "the label "+corev1.IsHeadlessService+" says that its Service is headless")
	case api.Labels[discoveryv1.LabelServiceName] == "":
		note.skip("metadata.labels", "no label "+discoveryv1.LabelServiceName+" names its Service")
	case api.AddressType == discoveryv1.AddressTypeFQDN:
		note.skip("addressType", "names cannot be balanced, only addresses")
	case api.AddressType != discoveryv1.AddressTypeIPv4 && api.AddressType != discoveryv1.AddressTypeIPv6:
		note.add("addressType", fmt.Sprintf("%q is none of IPv4, IPv6, FQDN", api.AddressType))
	default:
		return true
	}
	return false
}

func reduceSlicePorts(api []discoveryv1.EndpointPort, note notes) []servicePort {
	var have []servicePort
	for i, p := range api {
		// Without a number it would mean every port, which kube-proxy does not do either.
		if deref(p.Port) == 0 {
			continue
		}
		port, field, err := reducePort(deref(p.Name), string(deref(p.Protocol)), *p.Port)
		if err != nil {
			note.add(fmt.Sprintf("ports[%d].%s", i, field), err.Error())
			continue
		}
		have = append(have, port)
	}
	return have
}

func reduceEndpoints(api *discoveryv1.EndpointSlice, note notes) []sliceEndpoint {
	have := make([]sliceEndpoint, 0, len(api.Endpoints))
	for i, e := range api.Endpoints {
		if len(e.Addresses) == 0 {
			note.add(fmt.Sprintf("endpoints[%d].addresses", i), "there is no address")
			continue
		}
		// Further addresses have no meaning in the API.
		addr, err := parseAddr(e.Addresses[0])
		if err == nil && family(addr) != string(api.AddressType) {
			err = fmt.Errorf("%s is not of the slice's addressType %s", addr, api.AddressType)
		}
		if err != nil {
			note.add(fmt.Sprintf("endpoints[%d].addresses[0]", i), err.Error())
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

// reduceHints returns nil if the hints say nothing.
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

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
