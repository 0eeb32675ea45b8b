package render

import (
	"net/netip"
	"time"

	"nfproxy/nft"
)

// HealthCheck holds what this node answers to load balancers at the health check node port of a Service.
type HealthCheck struct {
	Service ServiceName
	// Created is the creationTimestamp of the Service, in UTC so that equal HealthChecks are ==.
	Created time.Time
	Port    uint16
	// IPv4 and IPv6 are the answers at addresses of these families. kube-proxy has one proxy per family, and answers alike.
	IPv4, IPv6 FamilyCheck
}

// FamilyCheck is the part of a health check that belongs to one family.
type FamilyCheck struct {
	// Served: the Service has an address of the family. Otherwise no server listens at the node's addresses of the family.
	Served bool
	// LocalEndpoints is the number of addresses of ready endpoints on this node. Terminating endpoints do not count although
	// they may still serve, nor do drained ones: load balancers should send new connections elsewhere.
	LocalEndpoints int
}

// Of returns the part of a family.
func (c HealthCheck) Of(f nft.Family) FamilyCheck {
	if f == nft.IPv6 {
		return c.IPv6
	}
	return c.IPv4
}

// HealthCheckAddresses returns the addresses at which the node's servers of health checks listen: those of node ports and, in a
// family in which node ports are served at all local addresses, the wildcard address alone, as in kube-proxy
// (newServiceHealthServer in pkg/proxy/healthcheck). No server listens at a link-local IPv6 address: it would need an interface.
func (n Node) HealthCheckAddresses() []netip.Addr {
	var addrs []netip.Addr
	if n.AllAddresses.IPv4 {
		addrs = append(addrs, netip.IPv4Unspecified())
	}
	if n.AllAddresses.IPv6 {
		addrs = append(addrs, netip.IPv6Unspecified())
	}
	for _, addr := range n.Addresses {
		if !n.AllAddresses.Has(Family(addr)) && !(addr.Is6() && addr.IsLinkLocalUnicast()) {
			addrs = append(addrs, addr)
		}
	}
	return n.supported(addrs)
}

// Precedes reports whether c takes precedence over d, the health check of another Service with the same port. The order is that
// of claims to a frontend: the older Service first, then by name.
func (c HealthCheck) Precedes(d HealthCheck) bool { return c.claim().before(d.claim()) }

func (c HealthCheck) claim() claim { return claim{&claimingService{c.Service, c.Created}, NodePort} }

// HealthCheckOf returns the health check of a Service. It returns false if the Service has none: only with
// externalTrafficPolicy Local does it matter to which node a load balancer sends a connection.
func HealthCheckOf(n Node, s Service) (HealthCheck, bool) {
	if s.HealthCheckNodePort == 0 || !s.ExternalLocal {
		return HealthCheck{}, false
	}
	c := HealthCheck{Service: s.ServiceName, Created: s.Created.UTC(), Port: s.HealthCheckNodePort}
	counted := make(map[netip.Addr]bool)
	for _, addr := range s.ClusterIPs {
		c.of(addr).Served = true
	}
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			if !e.Ready || e.Drained || !e.isLocal(n) || counted[e.Addr()] {
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
