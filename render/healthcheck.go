package render

import "net/netip"

// HealthCheck is what a load balancer learns of this node when it asks at a Service's health check node port.
type HealthCheck struct {
	Service ServiceName
	Port    uint16
	// LocalEndpoints counts the addresses of this node's ready endpoints. Those that terminate do not count although
	// they may still serve: a load balancer is to send new connections elsewhere.
	LocalEndpoints int
}

// HealthCheckOf returns a Service's health check. It says false if the Service has none: only with the external policy
// Local does it matter to a load balancer which node it sends a connection to.
func HealthCheckOf(n Node, s Service) (HealthCheck, bool) {
	if s.HealthCheckNodePort == 0 || !s.ExternalLocal {
		return HealthCheck{}, false
	}
	local := make(map[netip.Addr]bool)
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			if e.Ready && e.isLocal(n) {
				local[e.Addr()] = true
			}
		}
	}
	return HealthCheck{Service: s.ServiceName, Port: s.HealthCheckNodePort, LocalEndpoints: len(local)}, true
}
