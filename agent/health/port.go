package health

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// portServer is the HTTP server of one address and health check node port.
type portServer struct {
	http     *http.Server
	listener net.Listener
	ended    chan struct{}
}

// Timeouts for slow and vanished clients: every host that reaches the node can connect to these ports.
const (
	portRequestTimeout = 10 * time.Second
	portIdleTimeout    = 2 * time.Minute
)

// newPortServer returns a server that listens at the address and port. The caller closes it.
func newPortServer(at netip.AddrPort, handler http.Handler, log *slog.Logger) (*portServer, error) {
	network := "tcp6"
	if at.Addr().Is4() {
		network = "tcp4"
	}
	listener, err := net.Listen(network, at.String())
	if err != nil {
		return nil, err
	}
	s := &portServer{
		http: &http.Server{
			Handler:      handler,
			ReadTimeout:  portRequestTimeout,
			WriteTimeout: portRequestTimeout,
			IdleTimeout:  portIdleTimeout,
			ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		listener: listener,
		ended:    make(chan struct{}),
	}
	go func() {
		defer close(s.ended)
		if err := s.http.Serve(listener); !errors.Is(err, net.ErrClosed) {
			log.Warn("health check server ended, restarting it", "address", at, "error", err)
		}
	}()
	return s, nil
}

// hasEnded reports whether the server no longer accepts connections. It can end by itself: accept(2) fails when memory or
// file descriptors are exhausted.
func (s *portServer) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// close stops the server and closes its connections. When it returns, the port is free. It waits for the accept loop before
// it closes connections, so that no connection is accepted afterwards.
func (s *portServer) close() {
	_ = s.listener.Close() // fails only if the listener is already closed
	<-s.ended
	_ = s.http.Close()
}
