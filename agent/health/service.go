package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"nfproxy/render"
)

// healthChecks keeps the health checks of all Services as updates change them, and tells the servers of them when the
// rules that they speak of are in the kernel. A nil one does nothing.
type Checks struct {
	set    func(checks []render.HealthCheck, addrs []netip.Addr)
	checks map[render.ServiceName]render.HealthCheck
	addrs  []netip.Addr
	news   bool // set has not been told yet
}

func NewChecks(set func([]render.HealthCheck, []netip.Addr)) *Checks {
	return &Checks{set: set, checks: make(map[render.ServiceName]render.HealthCheck)}
}

// take notes what an update changes.
func (h *Checks) Take(u render.Update) {
	if h == nil {
		return
	}
	if !slices.Equal(h.addrs, u.Node.Addresses) {
		h.addrs, h.news = u.Node.Addresses, true
	}
	for _, name := range u.Removed {
		h.remove(name)
	}
	for _, s := range u.Services {
		check, wanted := render.HealthCheckOf(u.Node, s)
		if !wanted {
			h.remove(s.ServiceName)
		} else if h.checks[s.ServiceName] != check {
			h.checks[s.ServiceName], h.news = check, true
		}
	}
}

func (h *Checks) remove(name render.ServiceName) {
	if _, ok := h.checks[name]; ok {
		delete(h.checks, name)
		h.news = true
	}
}

// programmed says that the kernel has what the updates so far asked for.
func (h *Checks) Programmed() {
	if h == nil || !h.news {
		return
	}
	h.news = false
	h.set(slices.Collect(maps.Values(h.checks)), h.addrs)
}

// bindAgain is the time between attempts to bind ports that could not be bound.
const bindAgain = time.Second

// healthServers answer load balancers: one HTTP server for each health check and address of the node. Their methods may
// be used concurrently.
type ServicePorts struct {
	healthy func() bool
	failure func(service render.ServiceName, message string)
	log     *slog.Logger
	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	addrs   []netip.Addr
	checks  map[uint16]render.HealthCheck // by port
	servers map[netip.AddrPort]*healthServer
	// failed are the ports that cannot be bound and the Services for which that was reported.
	failed map[netip.AddrPort]render.ServiceName
	// waiting are the Services whose port another one has, which is reported too.
	waiting map[render.HealthCheck]render.ServiceName
}

// newHealthServers returns healthServers that serve nothing until Set; the caller closes them. healthy tells whether the
// rules in the kernel are those wanted; it is called from many goroutines.
func NewServicePorts(healthy func() bool, failure func(service render.ServiceName, message string), log *slog.Logger) *ServicePorts {
	ctx, cancel := context.WithCancel(context.Background())
	h := &ServicePorts{
		healthy: healthy,
		failure: failure,
		log:     log,
		stop:    cancel,
		stopped: make(chan struct{}),
		servers: make(map[netip.AddrPort]*healthServer),
		failed:  make(map[netip.AddrPort]render.ServiceName),
	}
	go h.retry(ctx)
	return h
}

// Set makes these health checks the ones that are served, at these addresses. It may be called at any time, also twice
// with the same, and the order means nothing. Of two Services with one port the first by name has it.
func (h *ServicePorts) Set(checks []render.HealthCheck, addrs []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addrs = slices.Clone(addrs)
	h.own(checks)
	h.match()
}

// Close ends all servers and their connections. Nothing may be Set afterwards. Closing twice is no error.
func (h *ServicePorts) Close() {
	h.stop()
	<-h.stopped
	h.Set(nil, nil)
}

// retry brings what could not be bound, or broke, up again.
func (h *ServicePorts) retry(ctx context.Context) {
	defer close(h.stopped)
	tick := time.NewTicker(bindAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.mu.Lock()
			h.match()
			h.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// own gives each port to one health check and reports those that have to wait.
func (h *ServicePorts) own(checks []render.HealthCheck) {
	h.checks = make(map[uint16]render.HealthCheck, len(checks))
	for _, c := range checks {
		if owner, taken := h.checks[c.Port]; !taken || c.Precedes(owner) {
			h.checks[c.Port] = c
		}
	}
	waiting := make(map[render.HealthCheck]render.ServiceName)
	for _, c := range checks {
		owner := h.checks[c.Port].Service
		if c.Service == owner {
			continue
		}
		c.IPv4, c.IPv6 = render.FamilyCheck{}, render.FamilyCheck{} // whatever it counts, it waits for the same
		waiting[c] = owner
		if h.waiting[c] != owner {
			h.log.Warn("health check node port is taken by another Service", "service", c.Service, "port", c.Port, "owner", owner)
		}
	}
	h.waiting = waiting
}

// match opens and closes servers until they are those wanted, as far as their ports can be bound.
func (h *ServicePorts) match() {
	for at, s := range h.servers {
		if !h.wants(at) || s.hasEnded() {
			s.close()
			delete(h.servers, at)
		}
	}
	maps.DeleteFunc(h.failed, func(at netip.AddrPort, _ render.ServiceName) bool { return !h.wants(at) })
	for port, check := range h.checks {
		for _, addr := range h.addrs {
			if at := netip.AddrPortFrom(addr, port); h.wants(at) && h.servers[at] == nil {
				h.open(at, check.Service)
			}
		}
	}
}

func (h *ServicePorts) wants(at netip.AddrPort) bool {
	return h.checks[at.Port()].Of(render.Family(at.Addr())).Served && slices.Contains(h.addrs, at.Addr())
}

func (h *ServicePorts) open(at netip.AddrPort, service render.ServiceName) {
	s, err := newHealthServer(at, h.handler(at), h.log)
	reported, late := h.failed[at]
	switch {
	case err == nil:
		h.servers[at] = s
		delete(h.failed, at)
		if late {
			h.log.Info("health check node port is served now", "service", service, "address", at)
		}
	case !late || reported != service:
		h.failed[at] = service
		h.log.Warn("health check node port cannot be served yet", "service", service, "address", at, "error", err)
		h.failure(service, fmt.Sprintf("cannot listen at %s: %v", at, err))
	}
}

// healthBody is the body of an answer, byte for byte kube-proxy's.
type healthBody struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// handler answers at an address and port, whatever the path. A port whose check is gone needs no answer: Set has closed the connection
// before it lets go of the lock.
func (h *ServicePorts) handler(at netip.AddrPort) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		check := h.checks[at.Port()]
		h.mu.Unlock()
		local := check.Of(render.Family(at.Addr())).LocalEndpoints
		body := healthBody{LocalEndpoints: local, ServiceProxyHealthy: h.healthy()}
		body.Service.Namespace, body.Service.Name = check.Service.Namespace, check.Service.Name
		text, err := json.MarshalIndent(body, "", "\t")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		header := w.Header()
		header.Set("Content-Type", "application/json")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
		if local == 0 || !body.ServiceProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(text) // who does not wait for the answer does not need it
	}
}

// healthServer serves one address and port.
type healthServer struct {
	http     *http.Server
	listener net.Listener
	ended    chan struct{}
}

// Bounds for clients that are slow or gone: the ports are open to whoever reaches the node.
const (
	healthRequestTimeout = 10 * time.Second
	healthIdleTimeout    = 2 * time.Minute
)

func newHealthServer(at netip.AddrPort, handler http.Handler, log *slog.Logger) (*healthServer, error) {
	network := "tcp6"
	if at.Addr().Is4() {
		network = "tcp4"
	}
	listener, err := net.Listen(network, at.String())
	if err != nil {
		return nil, err
	}
	s := &healthServer{
		http: &http.Server{
			Handler:      handler,
			ReadTimeout:  healthRequestTimeout,
			WriteTimeout: healthRequestTimeout,
			IdleTimeout:  healthIdleTimeout,
			ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		listener: listener,
		ended:    make(chan struct{}),
	}
	go func() {
		defer close(s.ended)
		if err := s.http.Serve(listener); !errors.Is(err, net.ErrClosed) {
			log.Warn("a health check server ended and is started again", "address", at, "error", err)
		}
	}()
	return s, nil
}

// hasEnded tells whether the server ended without being closed: accept(2) can fail for want of memory.
func (s *healthServer) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// close ends the server and its connections; the port is free when it returns. Connections are closed when no more can
// come: one that is accepted meanwhile would live on.
func (s *healthServer) close() {
	_ = s.listener.Close() // an error says that it is closed
	<-s.ended
	_ = s.http.Close()
}
