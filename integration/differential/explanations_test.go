package differential

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// refusedAtOutput explains what the node's own UDP and SCTP sockets see at its own node ports.
func refusedAtOutput(d difference) bool {
	return d.kind == probed && d.question.place == "node" && d.question.target.what == "node port" && d.nfproxy == forbidden &&
		slices.Contains([]string{refused, dropped, dropped + ", " + refused}, d.kubeProxy)
}

// severalServices explains what happens at a frontend that several Services claim, before or after the edit.
func severalServices(d difference) bool {
	return d.question != nil && (d.last.claims(d.question.target) > 1 || d.now.claims(d.question.target) > 1)
}

// claims returns the number of Services that have a target as a frontend.
func (s state) claims(t *target) int {
	for _, now := range targetsOf(s) {
		if now.to == t.to && now.protocol == t.protocol {
			return len(now.services)
		}
	}
	return 0
}

// inTwoSlices explains everything about a Service with an endpoint that is in two EndpointSlices under different conditions.
func inTwoSlices(d difference) bool {
	services := []string{d.service}
	if d.question != nil {
		services = d.question.target.services
	}
	return slices.ContainsFunc(services, func(name string) bool { return d.last.hasTwofold(name) || d.now.hasTwofold(name) })
}

// hasTwofold reports whether a Service has such an endpoint.
func (s state) hasTwofold(service string) bool {
	seen := make(map[string]discoveryv1.Endpoint)
	for _, slice := range s.slicesOf(&corev1.Service{ObjectMeta: meta(service)}) {
		for _, p := range slice.Ports {
			for _, e := range slice.Endpoints {
				key := fmt.Sprint(deref(p.Name), *p.Protocol, *p.Port, e.Addresses)
				before, ok := seen[key]
				if ok && !(equality.Semantic.DeepEqual(before.Conditions, e.Conditions) && equality.Semantic.DeepEqual(before.Hints, e.Hints)) {
					return true
				}
				seen[key] = e
			}
		}
	}
	return false
}

func deref(name *string) string {
	if name == nil {
		return ""
	}
	return *name
}

// endpointOrFrontendGone explains flows that nfproxy ends and kube-proxy does not.
func endpointOrFrontendGone(d difference) bool {
	if d.kind != flowed || !strings.HasPrefix(d.kubeProxy, "entry stays") || !strings.HasPrefix(d.nfproxy, "entry is gone") {
		return false
	}
	t := d.question.target
	recreated := slices.ContainsFunc(t.services, func(name string) bool { return slices.Contains(d.recreated, name) })
	moved := t.what == "node port" && !equality.Semantic.DeepEqual(d.last.node, d.now.node)
	hasEndpoint := slices.ContainsFunc(d.now.endpointsOf(t), func(e endpointAt) bool { return e.at == d.before })
	return !d.now.serves(t) || recreated || moved || !hasEndpoint
}

// readyAndNotServing explains flows that kube-proxy ends and nfproxy does not.
func readyAndNotServing(d difference) bool {
	return d.kind == flowed && strings.HasPrefix(d.kubeProxy, "entry is gone") && strings.HasPrefix(d.nfproxy, "entry stays") &&
		slices.ContainsFunc(d.now.endpointsOf(d.question.target), func(e endpointAt) bool {
			ready, serving := e.Conditions.Ready, e.Conditions.Serving
			return e.at == d.before && (ready == nil || *ready) && serving != nil && !*serving
		})
}

// numberOfNodePort explains flows to an address of the node at which the node port is not served.
func numberOfNodePort(d difference) bool {
	return d.kind == flowed && d.question.target.what == "node port" && isOutcome(d.before) &&
		strings.HasPrefix(d.kubeProxy, "entry is gone") && strings.HasPrefix(d.nfproxy, "entry stays")
}

// returnsToItsFirst explains clients with session affinity of Services with a policy Local that go back to an endpoint.
func returnsToItsFirst(d difference) bool { return d.kind == clients && d.back && d.hasPolicyLocal() }

// localAndHints explains clients with session affinity of Services with a policy Local and topology hints.
func localAndHints(d difference) bool {
	return d.kind == clients && d.hasPolicyLocal() &&
		slices.ContainsFunc(d.now.endpointsOf(d.question.target), func(e endpointAt) bool { return e.Hints != nil })
}

// hasPolicyLocal reports whether a Service of the difference has a traffic policy Local.
func (d difference) hasPolicyLocal() bool {
	return slices.ContainsFunc(d.now.services, func(v *corev1.Service) bool {
		return slices.Contains(d.question.target.services, v.Name) &&
			(v.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal || *v.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal)
	})
}

// countsOtherPorts explains health checks of Services whose EndpointSlices have other ports.
func countsOtherPorts(d difference) bool {
	return d.service != "" && slices.ContainsFunc(d.now.services, func(v *corev1.Service) bool {
		return v.Name == d.service && slices.ContainsFunc(d.now.slicesOf(v), func(e *discoveryv1.EndpointSlice) bool {
			return !slices.ContainsFunc(e.Ports, func(p discoveryv1.EndpointPort) bool {
				return slices.ContainsFunc(v.Spec.Ports, func(o corev1.ServicePort) bool {
					return o.Name == deref(p.Name) && o.Protocol == *p.Protocol
				})
			})
		})
	})
}

// beganBefore explains flows that no rule has translated and that none translates now.
func beganBefore(d difference) bool {
	return d.kind == flowed && isOutcome(d.before) && strings.HasPrefix(d.kubeProxy, "entry stays") && strings.HasPrefix(d.nfproxy, "entry stays")
}

// weightZero explains flows to an endpoint with weight 0.
func weightZero(d difference) bool {
	return d.kind == flowed && strings.HasPrefix(d.kubeProxy, "entry is gone") && strings.HasPrefix(d.nfproxy, "entry stays") &&
		d.now.weightsOf(d.question.target)[parseEndpoint(d.before)] == 0 && slices.ContainsFunc(d.now.endpointsOf(d.question.target), func(e endpointAt) bool { return e.at == d.before })
}

// endpointAt is an endpoint of a Service port, at "address:port".
type endpointAt struct {
	discoveryv1.Endpoint
	at     string
	weight int
}

// endpointsOf returns what the EndpointSlices have for a target.
func (s state) endpointsOf(t *target) []endpointAt {
	var all []endpointAt
	for _, name := range t.services {
		service := &corev1.Service{ObjectMeta: meta(name)}
		for _, slice := range s.slicesOf(service) {
			for _, p := range slice.Ports {
				if t.port != name+"/"+deref(p.Name) {
					continue
				}
				for _, e := range slice.Endpoints {
					at := netip.AddrPortFrom(netip.MustParseAddr(e.Addresses[0]), uint16(*p.Port)).String()
					all = append(all, endpointAt{e, at, weightOf(slice.Annotations)})
				}
			}
		}
	}
	return all
}

// serves reports whether a target is a frontend of the same Service port in a state, as far as this follows from the Service.
func (s state) serves(t *target) bool {
	for _, now := range targetsOf(s) {
		if now.to != t.to || now.protocol != t.protocol || now.port != t.port {
			continue
		}
		return slices.ContainsFunc(s.services, func(v *corev1.Service) bool {
			return slices.Contains(now.services, v.Name) && len(v.Labels) == 0 && v.Spec.ClusterIP != corev1.ClusterIPNone && v.Spec.ClusterIP != "" &&
				slices.ContainsFunc(v.Spec.ClusterIPs, func(ip string) bool { return strings.Contains(ip, ":") == t.to.Addr().Is6() })
		})
	}
	return false
}
