package watcher

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/render"
)

// labelServiceProxyName hands a Service to another proxy, whatever its value: kube-proxy's informer has the selector
// !service.kubernetes.io/service-proxy-name.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// service is what a Service's rules depend on.
type service struct {
	render.ServiceName
	created                                  time.Time
	clusterIPs, externalIPs, loadBalancerIPs []netip.Addr
	sourceRanges                             []netip.Prefix
	internalLocal, externalLocal             bool
	healthCheckNodePort                      uint16
	affinity                                 time.Duration
	ports                                    []servicePort
	// skipped is true of a Service that this proxy leaves alone.
	skipped  bool
	problems []Problem
}

// reduceService takes from a Service what the join needs, with every problem found on the way. What is wrong in one
// field costs that field alone.
func reduceService(api *corev1.Service) *service {
	s := &service{
		ServiceName: render.ServiceName{Namespace: namespace(api.Namespace), Name: api.Name},
		created:     api.CreationTimestamp.Time,
	}
	note := noter(&s.problems, objectKey{"Service", s.Namespace, s.Name})
	if field, reason := skipReason(api); reason != "" {
		note.skip(field, reason)
		s.skipped = true
		return s
	}
	s.clusterIPs = reduceClusterIPs(api, note)
	var external addrList
	for i, text := range api.Spec.ExternalIPs {
		external.add(text, fmt.Sprintf("spec.externalIPs[%d]", i), note)
	}
	s.externalIPs = external.list
	if api.Spec.Type == corev1.ServiceTypeLoadBalancer {
		s.reduceLoadBalancer(api, note)
	}
	s.internalLocal = policyLocal(deref(api.Spec.InternalTrafficPolicy), "spec.internalTrafficPolicy", note)
	s.externalLocal = policyLocal(api.Spec.ExternalTrafficPolicy, "spec.externalTrafficPolicy", note) && accessible(api)
	if api.Spec.Type == corev1.ServiceTypeLoadBalancer && s.externalLocal {
		s.healthCheckNodePort = reduceHealthCheckNodePort(api.Spec.HealthCheckNodePort, note)
	}
	s.affinity = reduceAffinity(api.Spec, note)
	s.ports = reduceServicePorts(api, note)
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

// reduceLoadBalancer takes the load balancer's addresses and the sources that reach them.
func (s *service) reduceLoadBalancer(api *corev1.Service, note notes) {
	texts := api.Spec.LoadBalancerSourceRanges
	for i, text := range texts {
		prefix, err := parsePrefix(text)
		if err != nil {
			note.add(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), err.Error())
			continue
		}
		s.sourceRanges = append(s.sourceRanges, prefix)
	}
	balancers := reduceIngress(api.Status.LoadBalancer.Ingress, note)
	s.loadBalancerIPs = balancers.list
	// What is an external address as well asks for the ranges all the same, as with kube-proxy.
	s.externalIPs = slices.DeleteFunc(s.externalIPs, func(a netip.Addr) bool { return balancers.has[a] })
	if len(s.sourceRanges) < len(texts) {
		s.closeUnranged(note)
	}
}

// closeUnranged takes the load balancer's addresses of families whose ranges are all lost: without a range a family would
// let in everybody.
func (s *service) closeUnranged(note notes) {
	for _, is4 := range []bool{true, false} {
		addr, served := ofFamily(s.loadBalancerIPs, is4)
		ranged := slices.ContainsFunc(s.sourceRanges, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
		if ranged || !served {
			continue
		}
		note.add("spec.loadBalancerSourceRanges",
			fmt.Sprintf("no %s range is valid, so the load balancer's %[1]s addresses are not served", family(addr)))
		s.loadBalancerIPs = slices.DeleteFunc(s.loadBalancerIPs, func(a netip.Addr) bool { return a.Is4() == is4 })
	}
}

// reduceIngress returns the addresses that a load balancer leaves on the packets it sends to nodes. With the mode Proxy
// it does not, and connections to the address have to go through it.
func reduceIngress(api []corev1.LoadBalancerIngress, note notes) (ips addrList) {
	for i, ingress := range api {
		field := fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i)
		mode := corev1.LoadBalancerIPModeVIP
		if ingress.IPMode != nil {
			mode = *ingress.IPMode
		}
		switch {
		case ingress.IP == "" || mode == corev1.LoadBalancerIPModeProxy:
		case mode == corev1.LoadBalancerIPModeVIP:
			ips.add(ingress.IP, field, note)
		default:
			note.add(field+"Mode", fmt.Sprintf("%q is none of VIP, Proxy", mode))
		}
	}
	return ips
}

// reduceHealthCheckNodePort returns the port, 0 if there is none or it cannot be used.
func reduceHealthCheckNodePort(number int32, note notes) uint16 {
	if number < 0 || number > math.MaxUint16 {
		note.add("spec.healthCheckNodePort", fmt.Sprintf("%d is not a port", number))
		return 0
	}
	return uint16(number)
}

// Bounds of the affinity timeout, and what it is where nothing is said (MaxClientIPServiceAffinitySeconds in
// pkg/apis/core/validation, DefaultClientIPServiceAffinitySeconds in k8s.io/api/core/v1).
const (
	maxAffinitySeconds     = 86400
	defaultAffinitySeconds = corev1.DefaultClientIPServiceAffinitySeconds
)

// reduceAffinity returns for how long clients stay, 0 if they do not. A timeout out of bounds is taken for the nearest one
// that makes sense.
func reduceAffinity(spec corev1.ServiceSpec, note notes) time.Duration {
	switch spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
		return 0
	case corev1.ServiceAffinityClientIP:
	default:
		note.add("spec.sessionAffinity", fmt.Sprintf("%q is none of None, ClientIP; None is used", spec.SessionAffinity))
		return 0
	}
	config := deref(deref(spec.SessionAffinityConfig).ClientIP)
	seconds := int32(defaultAffinitySeconds)
	if config.TimeoutSeconds != nil {
		seconds = *config.TimeoutSeconds
	}
	if used := min(max(seconds, 1), maxAffinitySeconds); used != seconds {
		note.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds",
			fmt.Sprintf("%d is not between 1 and %d; %d is used", seconds, maxAffinitySeconds, used))
		seconds = used
	}
	return time.Duration(seconds) * time.Second
}

// policyLocal tells whether a traffic policy is Local. One that is unknown counts as Cluster, the default.
func policyLocal[T ~string](policy T, field string, note notes) bool {
	switch policy {
	case "Local":
		return true
	case "Cluster", "":
	default:
		note.add(field, fmt.Sprintf("%q is none of Cluster, Local", policy))
	}
	return false
}

// accessible tells whether a Service has more than cluster IPs, as kube-proxy's ExternallyAccessible does. Else its
// external policy means nothing.
func accessible(api *corev1.Service) bool { return nodePorts(api) || len(api.Spec.ExternalIPs) > 0 }
