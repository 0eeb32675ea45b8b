package render

import (
	"net/netip"
	"time"

	"nfproxy/nft"
)

// LocalhostPort is a TCP node port at a loopback address. The kernel routes no packet from a loopback address to an endpoint
// without the sysctl route_localnet, so no rule serves it: a listener connects to an endpoint on behalf of the client
// (KEP-6032).
type LocalhostPort struct {
	Service ServiceName
	// Created is the creationTimestamp of the Service.
	Created time.Time
	// At is the loopback address and the node port.
	At netip.AddrPort
	// Endpoints are those that connections may reach, sorted, each as often as its weight says. Why is the reason for them, or for none.
	Endpoints []netip.AddrPort
	Why       Reason
	// Affinity is how long a client keeps its endpoint after its last connection; 0 without session affinity.
	Affinity time.Duration
}

// Precedes reports whether p takes precedence over q, which another Service wants at the same address and port. The order is
// that of claims to a frontend: the older Service first, then by name.
func (p LocalhostPort) Precedes(q LocalhostPort) bool { return p.claim().before(q.claim()) }

func (p LocalhostPort) claim() claim { return claim{&claimingService{p.Service, p.Created}, NodePort} }

// LocalhostPortsOf returns the TCP node ports of a Service at the loopback addresses of the node. With externalTrafficPolicy
// Local only endpoints on this node serve them, although at other addresses the node's own connections reach all endpoints:
// kube-proxy 1.37 does the same (syncProxyRules in pkg/proxy/nftables/proxier.go).
func LocalhostPortsOf(n Node, s Service) []LocalhostPort {
	var all []LocalhostPort
	families := s.Families()
	for _, addr := range n.supported(n.Loopback) {
		for _, p := range s.Ports {
			if p.NodePort == 0 || p.Protocol != nft.TCP || !families.Has(Family(addr)) {
				continue
			}
			port := LocalhostPort{Service: s.ServiceName, Created: s.Created, At: netip.AddrPortFrom(addr, p.NodePort), Affinity: s.Affinity}
			selected := Select(n, p, Family(addr))
			endpoints, why := selected.Cluster, selected.WhyCluster
			if s.ExternalLocal {
				endpoints, why = selected.Local, selected.WhyLocal
			}
			port.Endpoints, port.Why = weightedAddresses(endpoints), why
			all = append(all, port)
		}
	}
	return all
}

// NotAtLocalhost returns the ports of a Service whose node ports are not served at the loopback addresses of the node, because
// their protocol is not TCP.
func NotAtLocalhost(n Node, s Service) []Port {
	if len(n.Loopback) == 0 {
		return nil
	}
	var all []Port
	for _, p := range s.Ports {
		if p.NodePort != 0 && p.Protocol != nft.TCP {
			all = append(all, p)
		}
	}
	return all
}
