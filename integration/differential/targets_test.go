package differential

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// target is where probes go.
type target struct {
	protocol corev1.Protocol
	to       netip.AddrPort
	what     string   // the kinds of address that it is, such as "cluster IP"
	services []string // the Services that have it as a frontend
	affinity int32    // seconds of the session affinity of that Service's port, or 0
	hash     string   // what the Service hashes, or ""
	port     string   // the Service's port: session affinity is kept for each
}

// targetList collects targets. A target that several Services name is one target.
type targetList struct {
	order []*target
	all   map[targetKey]*target
}

type targetKey struct {
	protocol corev1.Protocol
	to       netip.AddrPort
}

// targetsOf returns what to probe in a state: every frontend of every Service, also of those that have none, their neighbours, and
// addresses that no Service has.
func targetsOf(s state) []*target {
	list := &targetList{all: make(map[targetKey]*target)}
	for _, v := range s.services {
		for _, p := range v.Spec.Ports {
			list.addFrontends(v, p)
		}
		for _, text := range v.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(text); err == nil { // "None" is no address
				list.add(nil, nil, corev1.ProtocolTCP, a, 82, "undefined port")
				list.add(nil, nil, corev1.ProtocolUDP, a, 82, "undefined port")
				list.add(nil, nil, corev1.ProtocolSCTP, a, 80, "port of a protocol")
				list.add(nil, nil, corev1.ProtocolTCP, a, 80, "port of a protocol")
			}
		}
	}
	for _, a := range addrs("10.96.0.77", "fd00:10:96::77") {
		list.add(nil, nil, corev1.ProtocolTCP, a, 80, "unallocated address")
		list.add(nil, nil, corev1.ProtocolUDP, a, 80, "unallocated address")
	}
	for _, a := range addrs("10.112.0.7", "fd00:10:97::7") {
		list.add(nil, nil, corev1.ProtocolTCP, a, 80, "address of a ServiceCIDR that comes and goes")
	}
	for _, a := range slices.Concat(boundAddrs, nodeAddrs, hostRoutes) {
		list.add(nil, nil, corev1.ProtocolTCP, a, listenerPort, "listener of the node")
	}
	for _, a := range addrs("10.244.1.3", "fd00:10:244:1::3", "10.244.129.2") {
		list.add(nil, nil, corev1.ProtocolTCP, a, 8080, "endpoint")
		list.add(nil, nil, corev1.ProtocolUDP, a, 8080, "endpoint")
	}
	return list.order
}

// linkLocal are addresses of the node on the interfaces of its pods.
var linkLocal = addrs("169.254.1.1")

// addFrontends adds the frontends of a port of a Service.
func (l *targetList) addFrontends(v *corev1.Service, p corev1.ServicePort) {
	for _, text := range v.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil {
			l.add(v, &p, p.Protocol, a, p.Port, "cluster IP")
		}
	}
	for _, text := range v.Spec.ExternalIPs {
		l.add(v, &p, p.Protocol, netip.MustParseAddr(text), p.Port, "external IP")
	}
	for _, i := range v.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(i.IP); err == nil {
			l.add(v, &p, p.Protocol, a, p.Port, "load balancer address")
		}
	}
	if p.NodePort != 0 {
		for _, a := range slices.Concat(nodeAddrs, hostRoutes, boundAddrs, linkLocal) {
			l.add(v, &p, p.Protocol, a, p.NodePort, "node port")
		}
	}
}

// add adds a target, or names another Service of a target.
func (l *targetList) add(v *corev1.Service, p *corev1.ServicePort, protocol corev1.Protocol, a netip.Addr, port int32, what string) {
	key := targetKey{protocol, netip.AddrPortFrom(a, uint16(port))}
	t, ok := l.all[key]
	if !ok {
		t = &target{protocol: protocol, to: key.to, what: what}
		l.all[key] = t
		l.order = append(l.order, t)
	}
	if v == nil {
		return
	}
	if len(t.services) == 0 {
		t.what = what
	}
	if !slices.Contains(t.services, v.Name) {
		t.services = append(t.services, v.Name)
	}
	t.port = v.Name + "/" + p.Name
	if len(t.services) > 1 { // the owner is one of them
		t.affinity, t.hash = 0, ""
		return
	}
	t.hash = hashOf(v)
	if v.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		t.affinity = cmp.Or(*v.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
}
