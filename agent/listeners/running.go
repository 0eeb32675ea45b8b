package listeners

import (
	"errors"
	"net"
	"net/netip"
)

// running is an open listener and its Server.
type running struct {
	listener net.Listener
	server   Server
	ended    chan struct{}
}

// listen binds an address and port and starts a Server. The caller closes the result. ended is called after the Server has ended
// although the listener is open.
func listen(at netip.AddrPort, server func(netip.AddrPort) Server, ended func(netip.AddrPort, error)) (*running, error) {
	network := "tcp6"
	if at.Addr().Is4() {
		network = "tcp4"
	}
	listener, err := net.Listen(network, at.String())
	if err != nil {
		return nil, err
	}
	r := &running{listener: listener, server: server(at), ended: make(chan struct{})}
	go func() {
		err := r.server.Serve(listener)
		close(r.ended)
		if !errors.Is(err, net.ErrClosed) {
			ended(at, err)
		}
	}()
	return r, nil
}

// hasEnded reports whether the Server no longer accepts connections. It can end by itself: accept(2) fails when memory or file
// descriptors are exhausted.
func (r *running) hasEnded() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// close closes the listener and ends the Server. When it returns, the port is free. It waits for the accept loop before it
// closes connections, so that no connection is accepted afterwards.
func (r *running) close() {
	_ = r.listener.Close() // fails only if the listener is already closed
	<-r.ended
	_ = r.server.Close() // fails only if a listener is already closed
}
