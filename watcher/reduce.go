package watcher

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	utilnet "k8s.io/utils/net"

	"nfproxy/nft"
	"nfproxy/render"
)

// labelServiceProxyName hands a Service to another proxy, whatever its value: kube-proxy's informer has the selector
// !service.kubernetes.io/service-proxy-name.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// Problem is something in an object that cannot be used as it stands, and what it is.
type Problem struct {
	// Object is the kind and the name, such as "Service default/web".
	Object string
	// Field is the path of the field at fault, such as "spec.ports[1].port".
	Field string
	// Detail says what is wrong with it.
	Detail string
	// Skipped says that the object is well but not for this proxy: Detail is the reason, nobody has to act.
	Skipped bool
}

// service is what a Service's rules depend on.
type service struct {
	render.ServiceName
	created    time.Time
	clusterIPs []netip.Addr
	ports      []servicePort
	// skipped is true of a Service that this proxy leaves alone.
	skipped  bool
	problems []Problem
}

type servicePort struct {
	name     string
	protocol nft.Protocol
	port     uint16
}

// slice is what an EndpointSlice gives its Service.
type slice struct {
	namespace, name string
	// service is the name of the Service it belongs to, empty if the slice is of no use.
	service   string
	ports     []servicePort
	endpoints []sliceEndpoint
	problems  []Problem
}

type sliceEndpoint struct {
	addr  netip.Addr
	node  string
	ready bool
}

// reduceService takes from a Service what the join needs, with every problem found on the way. What is wrong in one
// field costs that field alone.
func reduceService(api *corev1.Service) *service {
	s := &service{
		ServiceName: render.ServiceName{Namespace: namespace(api.Namespace), Name: api.Name},
		created:     api.CreationTimestamp.Time,
	}
	note := noter(&s.problems, "Service", s.Namespace, s.Name)
	if field, reason := skipReason(api); reason != "" {
		note.skip(field, reason)
		s.skipped = true
		return s
	}
	s.clusterIPs = reduceClusterIPs(api, note)
	s.ports = reduceServicePorts(api.Spec.Ports, note)
	return s
}

// skipReason tells why a Service is not for this proxy; kube-proxy skips the same (its informers' selectors and
// ShouldSkipService in pkg/proxy/util). The reason is empty for all others.
func skipReason(api *corev1.Service) (field, reason string) {
	if _, ok := api.Labels[labelServiceProxyName]; ok {
		return "metadata.labels", "the label " + labelServiceProxyName + " gives it to another proxy"
	}
	if api.Spec.Type == corev1.ServiceTypeExternalName {
		return "spec.type", "an ExternalName Service is a name in DNS and nothing else"
	}
	ips, _ := clusterIPs(api)
	switch {
	case strings.Join(ips, "") == "":
		return "spec.clusterIP", "it has no cluster IP"
	case ips[0] == corev1.ClusterIPNone:
		return "spec.clusterIP", "it is headless"
	}
	return "", ""
}

// clusterIPs returns the addresses as they are written and the field they are in, for paths such as "spec.clusterIPs[0]".
func clusterIPs(api *corev1.Service) (ips []string, field func(int) string) {
	if len(api.Spec.ClusterIPs) > 0 {
		return api.Spec.ClusterIPs, func(i int) string { return fmt.Sprintf("spec.clusterIPs[%d]", i) }
	}
	return []string{api.Spec.ClusterIP}, func(int) string { return "spec.clusterIP" }
}

func reduceClusterIPs(api *corev1.Service, note notes) []netip.Addr {
	var have []netip.Addr
	texts, field := clusterIPs(api)
	for i, text := range texts {
		addr, err := parseAddr(text)
		if err != nil {
			note.add(field(i), err.Error())
			continue
		}
		if first, ok := ofFamily(have, addr.Is4()); ok {
			note.add(field(i), fmt.Sprintf("%s is the second %s address, %s is used", addr, family(addr), first))
			continue
		}
		have = append(have, addr)
	}
	return have
}

func ofFamily(addrs []netip.Addr, is4 bool) (netip.Addr, bool) {
	for _, addr := range addrs {
		if addr.Is4() == is4 {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func reduceServicePorts(api []corev1.ServicePort, note notes) []servicePort {
	var have []servicePort
	for i, p := range api {
		port, field, err := reducePort(p.Name, string(p.Protocol), p.Port)
		if err == nil && p.Port == 0 {
			field, err = "port", fmt.Errorf("0 is not a port")
		}
		if err == nil {
			field, err = clash(have, port)
		}
		if err != nil {
			note.add(fmt.Sprintf("spec.ports[%d].%s", i, field), err.Error())
			continue
		}
		have = append(have, port)
	}
	return have
}

// clash reports what a port repeats of the ports before it. Names tell ports apart for EndpointSlices, so they have to
// differ even where the protocols do; the API server asks for the same.
func clash(have []servicePort, port servicePort) (field string, err error) {
	for _, other := range have {
		if other.protocol == port.protocol && other.port == port.port {
			return "port", fmt.Errorf("%d/%s is there already as port %q", port.port, port.protocol, other.name)
		}
		if other.name == port.name {
			return "name", fmt.Errorf("port %d/%s has the name %q already", other.port, other.protocol, other.name)
		}
	}
	return "", nil
}

func reducePort(name, protocol string, number int32) (port servicePort, field string, err error) {
	proto, err := nft.ParseProtocol(protocol)
	if err != nil {
		return port, "protocol", err
	}
	if number < 0 || number > math.MaxUint16 {
		return port, "port", fmt.Errorf("%d is not a port", number)
	}
	return servicePort{name: name, protocol: proto, port: uint16(number)}, "", nil
}

// reduceSlice takes from an EndpointSlice what the join needs, with every problem found on the way. An endpoint or a port
// that is wrong costs itself alone.
func reduceSlice(api *discoveryv1.EndpointSlice) *slice {
	s := &slice{namespace: namespace(api.Namespace), name: api.Name}
	note := noter(&s.problems, "EndpointSlice", s.namespace, s.name)
	if !usable(api, note) {
		return s
	}
	s.service = api.Labels[discoveryv1.LabelServiceName]
	s.ports = reduceSlicePorts(api.Ports, note)
	s.endpoints = reduceEndpoints(api, note)
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
		ready := e.Conditions.Ready == nil || *e.Conditions.Ready
		have = append(have, sliceEndpoint{addr: addr, node: deref(e.NodeName), ready: ready})
	}
	return have
}

// parseAddr reads an address as leniently as kube-proxy (010.0.0.1 is 10.0.0.1) and refuses those that a packet to a
// Service or an endpoint never carries. The API server refuses the same for endpoints.
func parseAddr(s string) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(utilnet.ParseIPSloppy(s))
	if !ok {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	if addr = addr.Unmap(); addr.Is4() && strings.Contains(s, ":") {
		return netip.Addr{}, fmt.Errorf("%q is an IPv4 address written as IPv6", s)
	}
	switch {
	case addr.IsUnspecified():
		return netip.Addr{}, fmt.Errorf("%s is the unspecified address", addr)
	case addr.IsLoopback():
		return netip.Addr{}, fmt.Errorf("%s is a loopback address", addr)
	case addr.IsMulticast():
		return netip.Addr{}, fmt.Errorf("%s is a multicast address", addr)
	case addr.IsLinkLocalUnicast():
		return netip.Addr{}, fmt.Errorf("%s is a link-local address", addr)
	}
	return addr, nil
}

// family is the address family in the API's words.
func family(addr netip.Addr) string {
	if addr.Is4() {
		return string(corev1.IPv4Protocol)
	}
	return string(corev1.IPv6Protocol)
}

func namespace(s string) string { return cmp.Or(s, corev1.NamespaceDefault) }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// notes collects the problems of one object.
type notes struct {
	to     *[]Problem
	object string
}

func noter(to *[]Problem, kind, namespace, name string) notes {
	return notes{to: to, object: kind + " " + namespace + "/" + name}
}

func (n notes) add(field, detail string) {
	*n.to = append(*n.to, Problem{Object: n.object, Field: field, Detail: detail})
}

func (n notes) skip(field, reason string) {
	*n.to = append(*n.to, Problem{Object: n.object, Field: field, Detail: reason, Skipped: true})
}
