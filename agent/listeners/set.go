package listeners

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"nfproxy/render"
)

// retryInterval is the time between attempts to bind ports that could not be bound.
const retryInterval = time.Second

// Server serves the connections of one listener.
type Server interface {
	// Serve accepts connections until the listener fails or is closed, and returns the reason. Many Servers of a Set serve at
	// the same time.
	Serve(net.Listener) error
	// Close ends the Server after its listener is closed and Serve has returned.
	Close() error
}

// Hooks are told what becomes of listeners. They are called one at a time, except Ended, and must not call the Set.
type Hooks struct {
	// Failed: an address and port cannot be bound. first reports whether this is the first attempt for the Service.
	Failed func(service render.ServiceName, at netip.AddrPort, err error, first bool)
	// Bound: an address and port for which Failed was called is bound now.
	Bound func(service render.ServiceName, at netip.AddrPort)
	// Ended: a Server ended although its listener was not closed. The Set starts another one.
	Ended func(at netip.AddrPort, err error)
}

// Set is a set of listeners. Its methods are safe for concurrent use.
type Set struct {
	server  func(at netip.AddrPort) Server
	hooks   Hooks
	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	wanted  map[netip.AddrPort]render.ServiceName
	running map[netip.AddrPort]*running
	// unbound holds the addresses and ports that could not be bound, and the Services for which Failed was called.
	unbound map[netip.AddrPort]render.ServiceName
	// ended reports whether a Server may have ended by itself since the last look at all of them.
	ended atomic.Bool
}

// New returns a Set without listeners; Keep opens them. The caller closes it. server returns the Server for a new listener.
func New(server func(at netip.AddrPort) Server, hooks Hooks) *Set {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Set{
		server:  server,
		hooks:   hooks,
		stop:    cancel,
		stopped: make(chan struct{}),
		running: make(map[netip.AddrPort]*running),
		unbound: make(map[netip.AddrPort]render.ServiceName),
	}
	go s.retry(ctx)
	return s
}

// Keep replaces the addresses and ports that are wanted; each belongs to a Service. When it returns, listeners that are not
// wanted are closed, and those that are wanted are open if they can be bound. The Set keeps the map, which must not change
// afterwards.
func (s *Set) Keep(wanted map[netip.AddrPort]render.ServiceName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = wanted
	s.reconcile()
}

// Open returns the number of open listeners of each kind of address: IPv4 and IPv6.
func (s *Set) Open() (ipv4, ipv6 int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := range s.running {
		if at.Addr().Is4() {
			ipv4++
		}
	}
	return ipv4, len(s.running) - ipv4
}

// Close closes all listeners and their Servers. It may be called twice; Keep must not be called afterwards.
func (s *Set) Close() {
	s.stop()
	<-s.stopped
	s.Keep(nil)
}

// retry periodically binds ports that could not be bound and replaces Servers that have ended, until ctx ends.
func (s *Set) retry(ctx context.Context) {
	defer close(s.stopped)
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.repair()
		case <-ctx.Done():
			return
		}
	}
}

// repair binds what could not be bound and replaces Servers that have ended.
func (s *Set) repair() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended.Swap(false) || len(s.unbound) > 0 {
		s.reconcile()
	}
}

// reconcile closes listeners that are not wanted or whose Server has ended, and opens the missing ones that can be bound.
func (s *Set) reconcile() {
	for at, r := range s.running {
		if _, wanted := s.wanted[at]; !wanted || r.hasEnded() {
			r.close()
			delete(s.running, at)
		}
	}
	maps.DeleteFunc(s.unbound, func(at netip.AddrPort, _ render.ServiceName) bool {
		_, wanted := s.wanted[at]
		return !wanted
	})
	for at, service := range s.wanted {
		if s.running[at] == nil {
			s.open(at, service)
		}
	}
}

// open binds an address and port and starts its Server.
func (s *Set) open(at netip.AddrPort, service render.ServiceName) {
	r, err := listen(at, s.server, s.serverEnded)
	failedFor, failed := s.unbound[at]
	if err != nil {
		s.unbound[at] = service
		s.hooks.Failed(service, at, err, !failed || failedFor != service)
		return
	}
	s.running[at] = r
	if failed {
		delete(s.unbound, at)
		s.hooks.Bound(service, at)
	}
}

// serverEnded notes that a Server ended although its listener is open.
func (s *Set) serverEnded(at netip.AddrPort, err error) {
	s.ended.Store(true)
	s.hooks.Ended(at, err)
}
