package render

import (
	"net/netip"

	"nfproxy/nft"
)

// HealthCheck is what a load balancer learns of this node when it asks at a Service's health check node port.
type HealthCheck struct {
	Service ServiceName
	Port    uint16
	// IPv4 and IPv6 are answered at addresses of their family, as kube-proxy does, which has one proxy for each.
	IPv4, IPv6 FamilyCheck
}

// FamilyCheck is the part of a health check that belongs to one family.
type FamilyCheck struct {
	// Served says that the Service has an address of the family: else nobody listens at the node's.
	Served bool
	// LocalEndpoints counts the addresses of this node's ready endpoints. Those that terminate do not count although
	// they may still serve: a load balancer is to send new connections elsewhere.
	LocalEndpoints int
}

// Of returns the part of a family.
func (c HealthCheck) Of(f nft.Family) FamilyCheck {
	if f == nft.IPv6 {
		return c.IPv6
	}
	return c.IPv4
}

// HealthCheckOf returns a Service's health check. It says false if the Service has none: only with the external policy
// Local does it matter to a load balancer which node it sends a connection to.
func HealthCheckOf(n Node, s Service) (HealthCheck, bool) {
	if s.HealthCheckNodePort == 0 || !s.ExternalLocal {
		return HealthCheck{}, false
	}
	c := HealthCheck{Service: s.ServiceName, Port: s.HealthCheckNodePort}
	counted := make(map[netip.Addr]bool)
	for _, addr := range s.ClusterIPs {
		c.of(addr).Served = true
	}
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			if !e.Ready || !e.isLocal(n) || counted[e.Addr()] {
				continue
			}
			counted[e.Addr()] = true
			if part := c.of(e.Addr()); part.Served {
				part.LocalEndpoints++
			}
		}
	}
	return c, true
}

func (c *HealthCheck) of(addr netip.Addr) *FamilyCheck {
	if Family(addr) == nft.IPv6 {
		return &c.IPv6
	}
	return &c.IPv4
}
