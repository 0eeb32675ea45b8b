package apichaos

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// relay forwards TCP connections and disturbs them.
type relay struct {
	t      testing.TB
	addr   string // at which it listens
	target string

	mu       sync.Mutex
	listener net.Listener
	pairs    map[*pair]bool
	// silent relays accept connections and forward nothing. cut is the number of bytes from the target after which a connection
	// is closed, zero for no limit.
	silent bool
	cut    int
	// accepted counts the connections.
	accepted int
}

// pair is one relayed connection. It forwards nothing while gate is locked.
type pair struct {
	client, target net.Conn
	gate           sync.RWMutex
	locked         bool
}

// relays counts the relays, for their ports. The kernel must not choose these: while a relay does not listen, it would give the port to a
// connection.
var relays atomic.Uint32

// newRelay starts a relay at an address, whose port may be zero.
func newRelay(t testing.TB, addr, target string) *relay {
	t.Helper()
	r := &relay{t: t, addr: addr, target: target, pairs: make(map[*pair]bool)}
	r.listen()
	t.Cleanup(func() {
		r.refuse()
		r.setSilent(false)
	})
	return r
}

// listen accepts connections, at the same port each time.
func (r *relay) listen() {
	r.t.Helper()
	addr, err := netip.ParseAddrPort(r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), uint16(20_000+relays.Add(1)))
	}
	listener, err := net.Listen("tcp", addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.listener, r.addr = listener, listener.Addr().String()
	r.mu.Unlock()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go r.serve(client)
		}
	}()
}

// port returns the port at which the relay listens.
func (r *relay) port() string {
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	return port
}

// refuse ends all connections and refuses new ones until listen.
func (r *relay) refuse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.listener.Close()
	r.closeAll()
}

// closeAll ends all connections.
func (r *relay) closeAll() {
	for p := range r.pairs {
		_ = p.client.Close()
		_ = p.target.Close()
	}
}

// reconnect ends all connections.
func (r *relay) reconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeAll()
}

// lead ends all connections and forwards new ones to another target.
func (r *relay) lead(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.accepted = target, 0
	r.closeAll()
}

// connections returns how many connections have been made since the last call of lead.
func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// clientPorts returns the ports of the clients.
func (r *relay) clientPorts() (ports []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		ports = append(ports, strconv.Itoa(p.client.RemoteAddr().(*net.TCPAddr).Port))
	}
	return ports
}

// setSilent makes all connections silent, present and future ones, or none. Data that was sent meanwhile arrives later.
func (r *relay) setSilent(silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = silent
	r.setGates(silent)
}

// abandon makes the present connections silent. New ones work.
func (r *relay) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setGates(true)
}

func (r *relay) setGates(locked bool) {
	for p := range r.pairs {
		switch {
		case locked && !p.locked:
			p.gate.Lock()
		case !locked && p.locked:
			p.gate.Unlock()
		}
		p.locked = locked
	}
}

// setCut closes every connection after a random number of bytes up to most, or none if it is zero.
func (r *relay) setCut(most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = most
	r.closeAll()
}

func (r *relay) serve(client net.Conn) {
	r.mu.Lock()
	to := r.target
	r.mu.Unlock()
	target, err := net.Dial("tcp", to)
	if err != nil {
		_ = client.Close()
		return
	}
	p := &pair{client: client, target: target}
	r.mu.Lock()
	if p.locked = r.silent; p.locked {
		p.gate.Lock()
	}
	r.pairs[p] = true
	r.accepted++
	limit := 0
	if r.cut > 0 {
		limit = 1 + rand.IntN(r.cut)
	}
	r.mu.Unlock()
	var done sync.WaitGroup
	done.Go(func() { p.copy(target, client, 0) })
	done.Go(func() { p.copy(client, target, limit) })
	done.Wait()
	r.mu.Lock()
	delete(r.pairs, p)
	r.mu.Unlock()
}

// copy forwards data until one side closes, or up to a number of bytes if that is not zero, and then closes both sides.
func (p *pair) copy(to, from net.Conn, limit int) {
	defer p.client.Close()
	defer p.target.Close()
	buffer := make([]byte, 16<<10)
	for sent := 0; ; {
		n, err := from.Read(buffer)
		cut := limit > 0 && sent+n >= limit
		if cut {
			n = limit - sent
		}
		p.gate.RLock()
		_, failed := to.Write(buffer[:n])
		p.gate.RUnlock()
		if err != nil || failed != nil || cut {
			return
		}
		sent += n
	}
}
