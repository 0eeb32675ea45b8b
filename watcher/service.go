package watcher

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/nft"
	"nfproxy/render"
)

// labelServiceProxyName assigns a Service to the proxy that its value names. Without a name of its own, nfproxy leaves all Services with
// the label to others, whatever the value: kube-proxy's informer has the selector !service.kubernetes.io/service-proxy-name.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// service is a Service reduced to what its rules depend on. The ports of its render.Service have no endpoints. It never changes.
type service struct {
	render.Service
	// skipped is true if the Service is not for this proxy. The other fields are then not set.
	skipped  bool
	problems []Problem
}

// reduceService reduces a Service for an instance and records its problems. A problem in one field does not affect the other fields.
func reduceService(api *corev1.Service, i render.Instance) *service {
	s := &service{Service: render.Service{
		ServiceName: render.ServiceName{Namespace: namespace(api.Namespace), Name: api.Name},
		Created:     api.CreationTimestamp.Time,
	}}
	problems := newProblemList(&s.problems, objectKey{serviceKind, s.Namespace, s.Name})
	if field, reason := skipReason(api, i); reason != "" {
		problems.skip(field, reason)
		s.skipped = true
		return s
	}
	s.ClusterIPs = reduceClusterIPs(api, problems)
	var external addrList
	for i, text := range api.Spec.ExternalIPs {
		external.add(text, fmt.Sprintf("spec.externalIPs[%d]", i), problems)
	}
	s.ExternalIPs = external.list
	if api.Spec.Type == corev1.ServiceTypeLoadBalancer {
		s.reduceLoadBalancer(api, problems)
	}
	s.InternalLocal = policyLocal(deref(api.Spec.InternalTrafficPolicy), "spec.internalTrafficPolicy", problems)
	s.ExternalLocal = policyLocal(api.Spec.ExternalTrafficPolicy, "spec.externalTrafficPolicy", problems) && externallyAccessible(api)
	if api.Spec.Type == corev1.ServiceTypeLoadBalancer && s.ExternalLocal {
		s.HealthCheckNodePort = reduceHealthCheckNodePort(api.Spec.HealthCheckNodePort, problems)
	}
	s.Affinity = reduceAffinity(api.Spec, problems)
	s.Hashing = reduceHashing(api.Annotations, problems)
	s.SlowStart = reduceSlowStart(api.Annotations, problems)
	s.Limits = reduceLimits(api.Annotations, problems)
	reportUnknown(serviceKind, api.Annotations, problems)
	s.Ports = reduceServicePorts(api, problems)
	return s
}

// nodePortFamilies returns the families in which the Service has node ports. A nil Service has none.
func (s *service) nodePortFamilies() (families []nft.Family) {
	if s == nil || !s.HasNodePorts() {
		return nil
	}
	in := s.Families()
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		if in.Has(family) {
			families = append(families, family)
		}
	}
	return families
}

// skipReason returns why a Service is not for this proxy, or an empty reason. kube-proxy skips the same Services (its
// informers' selectors, and ShouldSkipService in pkg/proxy/util).
func skipReason(api *corev1.Service, i render.Instance) (field, reason string) {
	switch name, labelled := api.Labels[labelServiceProxyName]; {
	case i.Name() == "" && labelled || labelled && name != i.Name():
		return "metadata.labels", "the label " + labelServiceProxyName + " assigns it to another proxy"
	case i.Name() != "" && !labelled:
		return "metadata.labels", "the label " + labelServiceProxyName + " is missing"
	}
	if api.Spec.Type == corev1.ServiceTypeExternalName {
		return "spec.type", "an ExternalName Service exists only in DNS"
	}
	ips, _ := clusterIPs(api)
	switch {
	case strings.Join(ips, "") == "":
		return "spec.clusterIP", "no cluster IP"
	case ips[0] == corev1.ClusterIPNone:
		return "spec.clusterIP", "headless"
	}
	return "", ""
}

// clusterIPs returns the cluster IPs as they are written, and a function that returns the path of the field of each, such as
// "spec.clusterIPs[0]".
func clusterIPs(api *corev1.Service) (ips []string, field func(int) string) {
	if len(api.Spec.ClusterIPs) > 0 {
		return api.Spec.ClusterIPs, func(i int) string { return fmt.Sprintf("spec.clusterIPs[%d]", i) }
	}
	return []string{api.Spec.ClusterIP}, func(int) string { return "spec.clusterIP" }
}

func reduceClusterIPs(api *corev1.Service, problems problemList) []netip.Addr {
	var have []netip.Addr
	texts, field := clusterIPs(api)
	for i, text := range texts {
		addr, err := parseClusterIP(text)
		if err != nil {
			problems.add(field(i), err.Error())
			continue
		}
		if first, ok := ofFamily(have, addr.Is4()); ok {
			problems.add(field(i), fmt.Sprintf("%s is a second %s address, %s is used", addr, family(addr), first))
			continue
		}
		have = append(have, addr)
	}
	return have
}

// reduceLoadBalancer sets the addresses of the load balancer and the source ranges.
func (s *service) reduceLoadBalancer(api *corev1.Service, problems problemList) {
	texts := api.Spec.LoadBalancerSourceRanges
	for i, text := range texts {
		prefix, err := parsePrefix(text)
		if err != nil {
			problems.add(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), err.Error())
			continue
		}
		s.SourceRanges = append(s.SourceRanges, prefix)
	}
	balancers := reduceIngress(api.Status.LoadBalancer.Ingress, problems)
	s.LoadBalancerIPs = balancers.list
	// The source ranges also apply to an address that is an external IP too, as with kube-proxy.
	s.ExternalIPs = slices.DeleteFunc(s.ExternalIPs, func(a netip.Addr) bool { return balancers.has[a] })
	if len(s.SourceRanges) < len(texts) {
		s.removeUnrestricted(problems)
	}
}

// removeUnrestricted removes the load balancer addresses of a family without a valid source range. It is called if a range
// is invalid: without any range the family would admit all sources.
func (s *service) removeUnrestricted(problems problemList) {
	for _, is4 := range []bool{true, false} {
		addr, served := ofFamily(s.LoadBalancerIPs, is4)
		ranged := slices.ContainsFunc(s.SourceRanges, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
		if ranged || !served {
			continue
		}
		problems.add("spec.loadBalancerSourceRanges",
			fmt.Sprintf("no %s range is valid, so the %[1]s addresses of the load balancer are not served", family(addr)))
		s.LoadBalancerIPs = slices.DeleteFunc(s.LoadBalancerIPs, func(a netip.Addr) bool { return a.Is4() == is4 })
	}
}

// reduceIngress returns the addresses that a load balancer leaves in the packets it sends to nodes. With ipMode Proxy it
// replaces the address, and connections from the cluster have to go through the load balancer.
func reduceIngress(api []corev1.LoadBalancerIngress, problems problemList) (ips addrList) {
	for i, ingress := range api {
		field := fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i)
		mode := corev1.LoadBalancerIPModeVIP
		if ingress.IPMode != nil {
			mode = *ingress.IPMode
		}
		switch {
		case ingress.IP == "" || mode == corev1.LoadBalancerIPModeProxy:
		case mode == corev1.LoadBalancerIPModeVIP:
			ips.add(ingress.IP, field, problems)
		default:
			problems.add(field+"Mode", fmt.Sprintf("%q is not one of VIP, Proxy", mode))
		}
	}
	return ips
}

// reduceHealthCheckNodePort returns the health check node port, 0 if there is none or it is invalid.
func reduceHealthCheckNodePort(number int32, problems problemList) uint16 {
	if number < 0 || number > math.MaxUint16 {
		problems.add("spec.healthCheckNodePort", fmt.Sprintf("%d is not a port number", number))
		return 0
	}
	return uint16(number)
}

// The maximum and the default of the session affinity timeout (MaxClientIPServiceAffinitySeconds in
// pkg/apis/core/validation, DefaultClientIPServiceAffinitySeconds in k8s.io/api/core/v1).
const (
	maxAffinitySeconds     = 86400
	defaultAffinitySeconds = corev1.DefaultClientIPServiceAffinitySeconds
)

// reduceAffinity returns the session affinity timeout, 0 for no session affinity. A timeout out of bounds is replaced by the
// bound.
func reduceAffinity(spec corev1.ServiceSpec, problems problemList) time.Duration {
	switch spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
		return 0
	case corev1.ServiceAffinityClientIP:
	default:
		problems.add("spec.sessionAffinity", fmt.Sprintf("%q is not one of None, ClientIP; None is used", spec.SessionAffinity))
		return 0
	}
	config := deref(deref(spec.SessionAffinityConfig).ClientIP)
	seconds := int32(defaultAffinitySeconds)
	if config.TimeoutSeconds != nil {
		seconds = *config.TimeoutSeconds
	}
	if used := min(max(seconds, 1), maxAffinitySeconds); used != seconds {
		problems.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds",
			fmt.Sprintf("%d is not between 1 and %d; %d is used", seconds, maxAffinitySeconds, used))
		seconds = used
	}
	return time.Duration(seconds) * time.Second
}

// policyLocal reports whether a traffic policy is Local. An unknown policy counts as Cluster, the default.
func policyLocal[T ~string](policy T, field string, problems problemList) bool {
	switch policy {
	case "Local":
		return true
	case "Cluster", "":
	default:
		problems.add(field, fmt.Sprintf("%q is not one of Cluster, Local", policy))
	}
	return false
}

// externallyAccessible reports whether a Service has other addresses than cluster IPs, as ExternallyAccessible of kube-proxy
// does. If not, externalTrafficPolicy has no effect.
func externallyAccessible(api *corev1.Service) bool {
	return hasNodePorts(api) || len(api.Spec.ExternalIPs) > 0
}
