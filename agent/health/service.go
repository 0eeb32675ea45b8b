package health

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"nfproxy/agent/listeners"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// ServicePorts serves the health check node ports of Services: one HTTP server for each health check and node address. Its
// methods are safe for concurrent use.
type ServicePorts struct {
	healthy func() bool
	report  func(service render.ServiceName, message string, again bool)
	log     *slog.Logger
	lines   *ratelimit.Log // of what a Service can cause at any rate
	servers *listeners.Set

	mu     sync.Mutex
	addrs  []netip.Addr
	checks map[uint16]render.HealthCheck // by port
	// conflicts holds the health checks whose port belongs to another Service, and that Service. Each was reported.
	conflicts map[render.HealthCheck]render.ServiceName
}

// NewServicePorts returns ServicePorts without servers; Set starts them. The caller closes it. healthy reports whether the
// proxy is healthy (Node.Healthy); it is called concurrently. report is called with an error message for a Service whose port
// cannot be bound, and again with every further attempt.
func NewServicePorts(healthy func() bool, report func(service render.ServiceName, message string, again bool), log *slog.Logger) *ServicePorts {
	p := &ServicePorts{healthy: healthy, report: report, log: log, lines: ratelimit.NewLog(log, ratelimit.Burst)}
	limit := newConnections()
	p.servers = listeners.New(
		func(at netip.AddrPort) listeners.Server { return newPortServer(p.handler(at), limit, log) },
		listeners.Hooks{Failed: p.failed, Bound: p.bound, Ended: p.ended},
	)
	return p
}

// Set replaces the health checks that are served and the addresses at which they are served. It may be called many times
// with identical arguments; the order of the checks and addresses has no effect. If two Services have the same port, the
// one that precedes gets it (render.HealthCheck.Precedes).
func (p *ServicePorts) Set(checks []render.HealthCheck, addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addrs = slices.Clone(addrs)
	p.assignPorts(checks)
	p.servers.Keep(p.wanted())
}

// Close stops all servers and closes their connections. It may be called twice; Set must not be called afterwards.
func (p *ServicePorts) Close() {
	p.servers.Close()
}

// assignPorts assigns each port to one health check and reports the others that want it.
func (p *ServicePorts) assignPorts(checks []render.HealthCheck) {
	p.checks = make(map[uint16]render.HealthCheck, len(checks))
	for _, c := range checks {
		if owner, taken := p.checks[c.Port]; !taken || c.Precedes(owner) {
			p.checks[c.Port] = c
		}
	}
	conflicts := make(map[render.HealthCheck]render.ServiceName)
	for _, c := range checks {
		owner := p.checks[c.Port].Service
		if c.Service == owner {
			continue
		}
		c.IPv4, c.IPv6 = render.FamilyCheck{}, render.FamilyCheck{} // a change of endpoints is not a new conflict
		conflicts[c] = owner
		if p.conflicts[c] != owner {
			if log, ok := p.lines.About(c.Service.String(), "taken"); ok {
				log.Warn("health check node port is taken by another Service", "service", c.Service, "port", c.Port, "owner", owner)
			}
		}
	}
	p.conflicts = conflicts
}

// wanted returns the addresses and ports at which health checks are served.
func (p *ServicePorts) wanted() map[netip.AddrPort]render.ServiceName {
	wanted := make(map[netip.AddrPort]render.ServiceName)
	for port, check := range p.checks {
		for _, addr := range p.addrs {
			if check.Of(render.Family(addr)).Served {
				wanted[netip.AddrPortFrom(addr, port)] = check.Service
			}
		}
	}
	return wanted
}

// failed reports that a Service's port cannot be bound, in the log once.
func (p *ServicePorts) failed(service render.ServiceName, at netip.AddrPort, err error, first bool) {
	p.report(service, fmt.Sprintf("cannot listen at %s: %v", at, err), !first)
	if !first {
		return
	}
	if log, ok := p.lines.About(service.String(), "listen"); ok {
		log.Warn("health check node port cannot be served yet", "service", service, "address", at, "error", err)
	}
}

func (p *ServicePorts) bound(service render.ServiceName, at netip.AddrPort) {
	if log, ok := p.lines.About(service.String(), "served"); ok {
		log.Info("health check node port is served now", "service", service, "address", at)
	}
}

func (p *ServicePorts) ended(at netip.AddrPort, err error) {
	p.log.Warn("health check server ended, restarting it", "address", at, "error", err)
}

// serviceStatus is the body of a response, byte for byte as in kube-proxy.
type serviceStatus struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// handler returns the handler for an address and port, which ignores the path. It needs no response for a port without a
// health check: Set closes the connections of such a port before it releases the lock.
func (p *ServicePorts) handler(at netip.AddrPort) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		check := p.checks[at.Port()]
		p.mu.Unlock()
		local := check.Of(render.Family(at.Addr())).LocalEndpoints
		status := serviceStatus{LocalEndpoints: local, ServiceProxyHealthy: p.healthy()}
		status.Service.Namespace, status.Service.Name = check.Service.Namespace, check.Service.Name
		body, err := json.MarshalIndent(status, "", "\t")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
		if local == 0 || !status.ServiceProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(body) // an error means that the client is gone
	}
}
