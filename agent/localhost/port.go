package localhost

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"nfproxy/render"
)

// The largest numbers of open connections: of one port, so that a program that never closes its connections does not keep others
// from other Services, and of all ports. A connection has two goroutines and up to six file descriptors, two sockets and the
// pipes of splice(2).
const (
	maxPortConnections = 1024
	maxConnections     = 4096
)

// limit is an upper limit of a number. Its methods are safe for concurrent use.
type limit struct {
	max  int64
	used atomic.Int64
}

// acquire adds one and reports whether the limit admits it.
func (l *limit) acquire() bool {
	if l.used.Add(1) <= l.max {
		return true
	}
	l.release()
	return false
}

func (l *limit) release() { l.used.Add(-1) }

// port is one node port at one loopback address.
type port struct {
	at    netip.AddrPort
	total *limit
	log   *slog.Logger
	// now and dialer are variables for tests.
	now    func() time.Time
	dialer net.Dialer

	running sync.WaitGroup // a count of open

	mu      sync.Mutex
	service render.ServiceName
	// endpoints are those of the last update.
	endpoints []netip.AddrPort
	affinity  time.Duration
	// last is the endpoint of the last connection, which was at lastUsed, if the Service has session affinity. All clients at a
	// loopback address are one client.
	last     netip.AddrPort
	lastUsed time.Time
	open     map[*connection]bool
	// fullAt is when it was last reported that a connection is not admitted.
	fullAt time.Time
}

func newPort(at netip.AddrPort, total *limit, log *slog.Logger) *port {
	return &port{at: at, total: total, log: log, now: time.Now,
		dialer: net.Dialer{Timeout: dialTimeout}, open: make(map[*connection]bool)}
}

// update replaces the Service and the endpoints. It reports whether served changed. Connections to endpoints that are gone stay
// open, as at other addresses; connections of another Service are reset.
func (p *port) update(to render.LocalhostPort) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed = p.service != to.Service || len(p.endpoints) > 0 != (len(to.Endpoints) > 0)
	if p.service != to.Service {
		p.resetAll()
	}
	if p.service != to.Service || p.affinity != to.Affinity {
		p.last = netip.AddrPort{}
	}
	p.service, p.endpoints, p.affinity = to.Service, to.Endpoints, to.Affinity
	return changed
}

// served returns the Service, and reports whether it has endpoints.
func (p *port) served() (service render.ServiceName, serves bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.service, len(p.endpoints) > 0
}

// close resets all connections and waits for their ends. The listener is closed before.
func (p *port) close() {
	p.mu.Lock()
	p.resetAll()
	p.mu.Unlock()
	p.running.Wait()
}

// resetAll resets all connections. The caller holds the lock.
func (p *port) resetAll() {
	for c := range p.open {
		c.abort()
	}
}

// acceptor is the listeners.Server of a port. Connections outlive the listener, which is closed while there is no endpoint.
type acceptor struct{ *port }

func (acceptor) Close() error { return nil }

// acceptRetryInterval is the time between attempts to accept a connection while the process or the kernel lacks resources.
const acceptRetryInterval = 100 * time.Millisecond

// reportInterval is the shortest time between two reports of the same kind about a port: a limit can be reached many times a
// second.
const reportInterval = time.Minute

// Serve implements listeners.Server.
func (p *port) Serve(l net.Listener) error {
	var reported time.Time
	for {
		conn, err := l.Accept()
		if err == nil {
			p.accept(conn.(*net.TCPConn))
			continue
		}
		if !lacksResources(err) {
			return err
		}
		if now := p.now(); now.Sub(reported) >= reportInterval {
			p.log.Warn("node port at localhost accepts no connections for now", "address", p.at, "error", err)
			reported = now
		}
		time.Sleep(acceptRetryInterval)
	}
}

// lacksResources reports whether accept(2) failed for a reason that passes when other files or connections are closed.
func lacksResources(err error) bool {
	return slices.ContainsFunc([]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM},
		func(target error) bool { return errors.Is(err, target) })
}

// accept forwards a connection in the background, or resets it if there are too many.
func (p *port) accept(client *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.endpoints) == 0 { // since a moment ago
		reset(client)
		return
	}
	if len(p.open) >= maxPortConnections || !p.total.acquire() {
		if now := p.now(); now.Sub(p.fullAt) >= reportInterval {
			p.fullAt = now
			p.log.Warn("too many connections to node ports at localhost; new ones are reset", "service", p.service, "address", p.at,
				"ofPort", len(p.open), "ofAll", p.total.used.Load())
		}
		reset(client)
		return
	}
	ctx, abort := context.WithCancel(context.Background())
	c := &connection{ctx: ctx, abort: abort, client: client, dialer: p.dialer}
	p.open[c] = true
	to := p.choose()
	p.running.Go(func() {
		if err := c.forward(to); err != nil {
			p.log.Debug("connection to a node port at localhost failed", "address", p.at, "endpoint", to, "error", err)
		}
		p.mu.Lock()
		delete(p.open, c)
		p.mu.Unlock()
		p.total.release()
	})
}

// choose returns the endpoint for a new connection. The caller holds the lock.
func (p *port) choose() netip.AddrPort {
	now := p.now()
	to := p.endpoints[rand.IntN(len(p.endpoints))]
	if p.affinity == 0 {
		return to
	}
	if now.Sub(p.lastUsed) <= p.affinity && slices.Contains(p.endpoints, p.last) {
		to = p.last
	}
	p.last, p.lastUsed = to, now
	return to
}
