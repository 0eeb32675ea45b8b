package differential

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

// nodeName is the name of the node on which the proxies run.
const nodeName = "node-a"

// Zones of the node and of endpoints.
const zone, otherZone = "zone-a", "zone-b"

// cases generates test cases. A draw of the lowest value is the simplest choice, to which rapid shrinks.
func cases() *rapid.Generator[testCase] {
	return rapid.Custom(func(t *rapid.T) testCase {
		c := testCase{config: configs().Draw(t, "config")}
		s := state{node: nodes().Draw(t, "node")}
		s.cidrs = serviceCIDRs().Draw(t, "ServiceCIDRs")
		for slot := range rapid.IntRange(1, maxServices).Draw(t, "Services") {
			s.setService(t, slot)
		}
		c.states = append(c.states, s)
		for range rapid.IntRange(0, 4).Draw(t, "steps") {
			s = s.clone()
			for range rapid.IntRange(1, 3).Draw(t, "edits") {
				s.edit(t)
			}
			c.states = append(c.states, s)
		}
		return c
	})
}

// maxServices is the number of slots for Services. A slot determines a Service's name and its cluster IPs.
const maxServices = 6

// configs generates KubeProxyConfigurations.
func configs() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		var config proxyconfig.KubeProxyConfiguration
		config.APIVersion, config.Kind, config.Mode = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", "nftables"
		config.ClusterCIDR = pick(t, "clusterCIDR", "10.244.0.0/16,fd00:10:244::/48", "", "10.244.0.0/16")
		config.DetectLocalMode = pick[proxyconfig.LocalMode](t, "detectLocalMode", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
		switch config.DetectLocalMode {
		case "BridgeInterface":
			config.DetectLocal.BridgeInterface = pick(t, "bridgeInterface", "pod1", "br0")
		case "InterfaceNamePrefix":
			config.DetectLocal.InterfaceNamePrefix = pick(t, "interfaceNamePrefix", "pod1", "pod", "veth")
		}
		config.NodePortAddresses = pick(t, "nodePortAddresses", nil, []string{"primary"}, []string{"192.0.2.0/24"}, []string{"0.0.0.0/0", "::/0"},
			[]string{"192.0.2.20/32", "2001:db8::/64"}, []string{"0.0.0.0/0"}, []string{"::/0"}, []string{"2001:db8::20/128"}, []string{"203.0.113.0/24"})
		config.NFTables.MasqueradeAll = pick(t, "masqueradeAll", false, true)
		if pick(t, "external IPs", true, true, true, false) == false {
			config.FeatureGates = map[string]bool{"AllowServiceExternalIPs": false}
		}
		config.BindAddress = pick(t, "bindAddress", "", "", "", "192.0.2.20", "127.0.0.1")
		text, err := yaml.Marshal(map[string]any{"apiVersion": config.APIVersion, "kind": config.Kind, "mode": config.Mode,
			"clusterCIDR": config.ClusterCIDR, "detectLocalMode": config.DetectLocalMode, "detectLocal": config.DetectLocal,
			"nodePortAddresses": config.NodePortAddresses, "nftables": map[string]any{"masqueradeAll": config.NFTables.MasqueradeAll},
			"featureGates": config.FeatureGates, "bindAddress": config.BindAddress})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	})
}

// nodes generates the Node object of the proxies' node.
func nodes() *rapid.Generator[*corev1.Node] {
	return rapid.Custom(func(t *rapid.T) *corev1.Node {
		n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{}}}
		if z := pick(t, "zone", "", zone, otherZone); z != "" {
			n.Labels[corev1.LabelTopologyZone] = z
		}
		for _, a := range pick(t, "addresses", []string{"192.0.2.10", "2001:db8::10"}, []string{"192.0.2.20", "2001:db8::20"}, []string{"192.0.2.10"},
			[]string{"2001:db8::10", "192.0.2.10"}) {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: pick(t, "address type", corev1.NodeInternalIP, corev1.NodeInternalIP, corev1.NodeExternalIP), Address: a})
		}
		// With NodeCIDR kube-proxy does not start without them.
		n.Spec.PodCIDRs = pick(t, "podCIDRs", []string{"10.244.0.0/17", "fd00:10:244::/49"}, []string{"10.244.1.0/24", "fd00:10:244:1::/64"})
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
		if pick(t, "taint", false, false, false, true) {
			n.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}}
		}
		return n
	})
}

// serviceCIDRs generates ServiceCIDRs besides those that the API server has by default.
func serviceCIDRs() *rapid.Generator[[]*networkingv1.ServiceCIDR] {
	return rapid.Custom(func(t *rapid.T) []*networkingv1.ServiceCIDR {
		if !pick(t, "another ServiceCIDR", false, true) {
			return nil
		}
		return []*networkingv1.ServiceCIDR{{TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
			ObjectMeta: metav1.ObjectMeta{Name: "more"},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: pick(t, "CIDRs", []string{moreCIDR}, []string{moreCIDR, moreCIDR6})}}}
	})
}

// CIDRs of the ServiceCIDR that comes and goes.
const moreCIDR, moreCIDR6 = "10.112.0.0/24", "fd00:10:97::/112"

// edit changes the state as an administrator of the cluster would.
func (s *state) edit(t *rapid.T) {
	slot := rapid.IntRange(0, maxServices-1).Draw(t, "slot")
	switch pick(t, "edit", "endpoint", "endpoints", "endpoint", "service", "delete", "recreate", "node", "ServiceCIDR", "weight") {
	case "endpoint":
		s.editEndpoint(t)
	case "endpoints":
		if service := s.service(slot); service != nil {
			s.setEndpoints(t, service)
		}
	case "service":
		if old := s.service(slot); old != nil {
			*old = *service(t, slot)
		} else {
			s.setService(t, slot)
		}
	case "delete":
		s.removeService(slot)
	case "recreate":
		s.removeService(slot)
		s.setService(t, slot)
	case "weight":
		if len(s.slices) > 0 {
			s.setWeight(t, rapid.SampledFrom(s.slices).Draw(t, "EndpointSlice"), weights)
		}
	case "node":
		s.node = nodes().Draw(t, "node")
	case "ServiceCIDR":
		s.cidrs = serviceCIDRs().Draw(t, "ServiceCIDRs")
	}
}

// editEndpoint changes the condition of one endpoint, or removes it.
func (s *state) editEndpoint(t *rapid.T) {
	var all []*discoveryv1.EndpointSlice
	for _, e := range s.slices {
		if len(e.Endpoints) > 0 {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return
	}
	e := rapid.SampledFrom(all).Draw(t, "EndpointSlice")
	i := rapid.IntRange(0, len(e.Endpoints)-1).Draw(t, "endpoint")
	if pick(t, "condition or removal", false, true) {
		e.Endpoints = slices.Delete(e.Endpoints, i, i+1)
		return
	}
	e.Endpoints[i].Conditions = conditions(t)
}

// weights are values of an annotation. Small numbers are drawn most often; so every other slice begins with another value.
var weights = []string{"2", "5", "0", "3", "1", "-1", "many"}

// setWeight gives the endpoints of an EndpointSlice a weight. kube-proxy is shown each slice by itself; so an endpoint with weight 0 is in
// no other slice.
func (s *state) setWeight(t *rapid.T, e *discoveryv1.EndpointSlice, values []string) {
	value := pick(t, "weight", values...)
	e.Annotations = map[string]string{pick(t, "annotation", "nfproxy.io/weight", "service.cilium.io/weight"): value}
	for _, other := range s.slices {
		if other != e && other.Labels[discoveryv1.LabelServiceName] == e.Labels[discoveryv1.LabelServiceName] &&
			(weightOf(e.Annotations) == 0 || weightOf(other.Annotations) == 0) {
			e.Endpoints = slices.DeleteFunc(e.Endpoints, func(one discoveryv1.Endpoint) bool {
				return slices.ContainsFunc(other.Endpoints, func(o discoveryv1.Endpoint) bool { return o.Addresses[0] == one.Addresses[0] })
			})
		}
	}
}

// annotations generates the annotations of a Service that determine the choice of an endpoint.
func annotations(t *rapid.T) map[string]string {
	all := make(map[string]string)
	switch pick(t, "algorithm", "", "", "", "client", "connection", "client", "cilium", "unknown") {
	case "client":
		all["nfproxy.io/lb-algorithm"] = "maglev"
	case "connection":
		all["nfproxy.io/lb-algorithm"], all["nfproxy.io/hash-on"] = "maglev", "connection"
	case "cilium":
		all["service.cilium.io/lb-algorithm"] = "maglev"
	case "unknown":
		all["nfproxy.io/lb-algorithm"] = "wrr"
	}
	// A table tells how far a weight has grown; other Services tell only whether an endpoint is reached.
	slow := []bool{false, false, false, false, true}
	if len(all) > 0 {
		slow = slow[3:]
	}
	if pick(t, "slow start", slow...) {
		all["nfproxy.io/slow-start"] = "1s"
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func serviceName(slot int) string { return fmt.Sprintf("service-%d", slot) }

// service returns the Service of a slot, or nil.
func (s *state) service(slot int) *corev1.Service { return s.named(serviceName(slot)) }

// named returns the Service of a name, or nil.
func (s *state) named(name string) *corev1.Service {
	for _, v := range s.services {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// setService gives a slot a Service and endpoints.
func (s *state) setService(t *rapid.T, slot int) {
	s.removeService(slot)
	v := service(t, slot)
	s.services = append(s.services, v)
	s.setEndpoints(t, v)
}

func (s *state) removeService(slot int) {
	if old := s.service(slot); old != nil {
		s.removeSlices(old)
		s.services = slices.DeleteFunc(s.services, func(v *corev1.Service) bool { return v == old })
	}
}

func (s *state) removeSlices(service *corev1.Service) {
	of := s.slicesOf(service)
	s.slices = slices.DeleteFunc(s.slices, func(e *discoveryv1.EndpointSlice) bool { return slices.Contains(of, e) })
}

// service generates the Service of a slot.
func service(t *rapid.T, slot int) *corev1.Service {
	v := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta(serviceName(slot))}
	v.Spec.Type = pick(t, "type", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeLoadBalancer,
		corev1.ServiceTypeExternalName)
	if v.Spec.Type == corev1.ServiceTypeExternalName {
		v.Spec.ExternalName = "example.org"
		v.Spec.Ports = servicePorts(t, slot, v.Spec.Type)
		return v
	}
	v.Annotations = annotations(t)
	setFamilies(t, v, slot)
	v.Spec.Ports = servicePorts(t, slot, v.Spec.Type)
	if pick(t, "labelled", "", "", "", "", "", "service.kubernetes.io/service-proxy-name") != "" {
		v.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "another"}
	}
	v.Spec.ExternalIPs = pick(t, "externalIPs", nil, nil, []string{"198.51.100.80"}, []string{"198.51.100.80", "2001:db8:51::80"}, []string{"192.0.2.20"},
		[]string{"192.0.2.10", "2001:db8::10"}, []string{"203.0.113.8"})
	internal := pick(t, "internalTrafficPolicy", corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	v.Spec.InternalTrafficPolicy = &internal
	if v.Spec.Type != corev1.ServiceTypeClusterIP || len(v.Spec.ExternalIPs) > 0 {
		v.Spec.ExternalTrafficPolicy = pick(t, "externalTrafficPolicy", corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	}
	v.Spec.SessionAffinity = corev1.ServiceAffinityNone
	if timeout := pick(t, "affinity timeout", 0, 0, 10800, 2); timeout > 0 {
		seconds := int32(timeout)
		v.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		v.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	if v.Spec.Type == corev1.ServiceTypeLoadBalancer {
		setLoadBalancer(t, v, slot)
	}
	return v
}

// setFamilies gives a Service cluster IPs.
func setFamilies(t *rapid.T, v *corev1.Service, slot int) {
	ip4, ip6 := fmt.Sprintf("10.96.0.%d", 100+2*slot), fmt.Sprintf("fd00:10:96::1%02d", 2*slot)
	policy := corev1.IPFamilyPolicySingleStack
	switch pick(t, "families", "4", "6", "46", "64", "none") {
	case "4":
		v.Spec.IPFamilies, v.Spec.ClusterIPs = []corev1.IPFamily{corev1.IPv4Protocol}, []string{ip4}
	case "6":
		v.Spec.IPFamilies, v.Spec.ClusterIPs = []corev1.IPFamily{corev1.IPv6Protocol}, []string{ip6}
	case "46":
		policy, v.Spec.IPFamilies, v.Spec.ClusterIPs = corev1.IPFamilyPolicyRequireDualStack, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, []string{ip4, ip6}
	case "64":
		policy, v.Spec.IPFamilies, v.Spec.ClusterIPs = corev1.IPFamilyPolicyRequireDualStack, []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}, []string{ip6, ip4}
	case "none": // headless
		v.Spec.Type = corev1.ServiceTypeClusterIP
		v.Spec.IPFamilies, v.Spec.ClusterIPs = []corev1.IPFamily{corev1.IPv4Protocol}, []string{corev1.ClusterIPNone}
	}
	v.Spec.ClusterIP, v.Spec.IPFamilyPolicy = v.Spec.ClusterIPs[0], &policy
}

// setLoadBalancer generates what only load balancer Services have.
func setLoadBalancer(t *rapid.T, v *corev1.Service, slot int) {
	allocate := false // the ports with a node port have a number
	v.Spec.AllocateLoadBalancerNodePorts = &allocate
	v.Spec.LoadBalancerSourceRanges = pick(t, "loadBalancerSourceRanges", nil, nil, []string{"198.51.100.0/24"}, []string{"10.244.0.0/16", "2001:db8:51::/48"},
		[]string{"192.0.2.0/24"}, []string{"0.0.0.0/0"}, []string{"203.0.113.200/32", "198.18.0.0/15", "2001:db8:18::/64", "2001:db8::/64"})
	if v.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		v.Spec.HealthCheckNodePort = int32(31000 + slot)
	}
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	v.Status.LoadBalancer.Ingress = pick(t, "ingress",
		[]corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", 10+slot), IPMode: &vip}},
		nil,
		[]corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", 10+slot), IPMode: &vip}, {IP: fmt.Sprintf("2001:db8:113::1%d", slot), IPMode: &vip}},
		[]corev1.LoadBalancerIngress{{IP: "203.0.113.10", IPMode: &vip}},
		[]corev1.LoadBalancerIngress{{IP: "203.0.113.11", IPMode: &proxy}},
		[]corev1.LoadBalancerIngress{{IP: "192.0.2.20", IPMode: &vip}},
		[]corev1.LoadBalancerIngress{{IP: "198.51.100.80", IPMode: &vip}},
		[]corev1.LoadBalancerIngress{{Hostname: "lb.example.org"}})
}

// servicePorts generates the ports of a Service.
func servicePorts(t *rapid.T, slot int, kind corev1.ServiceType) []corev1.ServicePort {
	var all []corev1.ServicePort
	for i := range rapid.IntRange(1, 4).Draw(t, "ports") {
		p := corev1.ServicePort{Name: fmt.Sprintf("p%d", i), Protocol: pick(t, "protocol", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP),
			Port: pick[int32](t, "port", 80, 81, listenerPort), TargetPort: intstr.FromInt32(8080)}
		if slices.ContainsFunc(all, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
			continue
		}
		if kind == corev1.ServiceTypeNodePort || kind == corev1.ServiceTypeLoadBalancer && !pick(t, "no node port", false, false, true) {
			p.NodePort = int32(30000 + 10*slot + i)
		}
		all = append(all, p)
	}
	if len(all) > 1 || !pick(t, "unnamed port", false, true) {
		return all
	}
	all[0].Name = ""
	return all
}

// server is an address that endpoints can have.
type server struct{ addr4, addr6, node string }

var endpointServers = []server{
	{"10.244.1.2", "fd00:10:244:1::2", nodeName},
	{"10.244.1.3", "fd00:10:244:1::3", nodeName},
	{"10.244.129.2", "fd00:10:244:8001::2", "node-b"},
	{"192.0.2.10", "2001:db8::10", nodeName},
	{"10.244.129.3", "fd00:10:244:8001::3", "node-b"},
	{"192.0.2.11", "2001:db8::11", "node-b"},
}

// setEndpoints replaces the EndpointSlices of a Service.
func (s *state) setEndpoints(t *rapid.T, service *corev1.Service) {
	s.removeSlices(service)
	hints := pick(t, "hints", "", "", "zones", "nodes", "some")
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		for i := range rapid.IntRange(0, 2).Draw(t, string(family)+" EndpointSlices") {
			e := &discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
				ObjectMeta: meta(fmt.Sprintf("%s-%s-%d", service.Name, map[discoveryv1.AddressType]string{"IPv4": "4", "IPv6": "6"}[family], i)), AddressType: family}
			e.Labels = map[string]string{discoveryv1.LabelServiceName: service.Name}
			for _, p := range service.Spec.Ports {
				target := pick[int32](t, "target port", 8080, 8081)
				if pick(t, "no target port", false, false, false, false, false, true) {
					continue
				}
				port := discoveryv1.EndpointPort{Protocol: &p.Protocol, Port: &target}
				if p.Name != "" {
					port.Name = &p.Name
				}
				e.Ports = append(e.Ports, port)
			}
			count := rapid.IntRange(0, 4).Draw(t, "endpoints")
			for _, v := range rapid.SliceOfNDistinct(rapid.SampledFrom(endpointServers), count, count, rapid.ID).Draw(t, "servers") {
				e.Endpoints = append(e.Endpoints, endpoint(t, v, family, hints))
			}
			s.slices = append(s.slices, e)
			if pick(t, "weighted", false, true) {
				s.setWeight(t, e, weights[i:])
			}
		}
	}
}

// endpoint generates an endpoint of a server.
func endpoint(t *rapid.T, v server, family discoveryv1.AddressType, hints string) discoveryv1.Endpoint {
	addr := v.addr4
	if family == discoveryv1.AddressTypeIPv6 {
		addr = v.addr6
	}
	e := discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &v.node, Conditions: conditions(t)}
	if hints == "zones" || hints == "some" && pick(t, "zone hint", false, true) {
		e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: pick(t, "for zone", zone, otherZone)}}}
	}
	if hints == "nodes" {
		e.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: pick(t, "for node", nodeName, "node-b")}}}
	}
	return e
}

// conditions generates the conditions of an endpoint, most of them ready.
func conditions(t *rapid.T) discoveryv1.EndpointConditions {
	yes, no := true, false
	switch pick(t, "conditions", "ready", "ready", "ready", "nil", "unready", "terminating", "terminated", "ready and not serving") {
	case "nil":
		return discoveryv1.EndpointConditions{}
	case "unready":
		return discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &no}
	case "terminating":
		return discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	case "terminated":
		return discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
	case "ready and not serving": // publishNotReadyAddresses
		return discoveryv1.EndpointConditions{Ready: &yes, Serving: &no, Terminating: &yes}
	}
	return discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}
}

// pick draws one of the values; the first is the simplest.
func pick[T any](t *rapid.T, label string, values ...T) T {
	return values[rapid.IntRange(0, len(values)-1).Draw(t, label)]
}
