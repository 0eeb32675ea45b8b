package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"nfproxy/agent/metrics"
	"nfproxy/config"
)

// The names of the servers.
const (
	// HealthzServer is the name of the server of /healthz, /livez and /readyz.
	HealthzServer = "healthz"
	metricsServer = "metrics"
)

// serveRetryInterval is the time between attempts to listen at an address, as in kube-proxy.
const serveRetryInterval = 5 * time.Second

// Servers are the HTTP servers at the healthz address and at the metrics address.
type Servers struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	err     chan error
}

// NewServers starts a server for each address in the settings that is not empty. version is nfproxy's, for /statusz, and configz is
// the value that /configz shows, as returned by Configz.
//
// If a server cannot listen or ends, failed is called with its name and the error, once until it listens again, and from any
// goroutine; failed may be nil. With BindAddressHardFail, NewServers returns the error, or Err receives it; without, the
// server is restarted. The caller closes the Servers.
func NewServers(set config.Settings, version string, m *metrics.Recorder, n *Node, configz any, failed func(name string, err error),
	log *slog.Logger) (*Servers, error) {
	metricsMux, err := metricsHandler(set, version, m, n, configz, log)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Servers{stop: stop, err: make(chan error, 1)}
	for _, srv := range []server{
		{name: HealthzServer, address: set.Healthz, handler: healthzHandler(m, n)},
		{name: metricsServer, address: set.Metrics, handler: metricsMux},
	} {
		if srv.address == "" {
			continue
		}
		srv.hardFail, srv.retryInterval, srv.failed, srv.log = set.BindAddressHardFail, serveRetryInterval, failed, log
		if err := s.start(ctx, &srv); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// start opens the address before it returns, and serves in the background. It returns an error only with hardFail.
func (s *Servers) start(ctx context.Context, srv *server) error {
	listener, err := srv.listen(ctx)
	if err != nil && srv.hardFail {
		return err
	}
	s.run(ctx, srv, listener)
	return nil
}

// run serves in the background until ctx ends. It uses the listener first, unless that is nil.
func (s *Servers) run(ctx context.Context, srv *server, listener net.Listener) {
	s.running.Go(func() {
		if err := srv.run(ctx, listener); err != nil {
			select {
			case s.err <- err:
			default: // the first error is enough
			}
		}
	})
}

// Err returns the channel that receives an error if a server ends with BindAddressHardFail.
func (s *Servers) Err() <-chan error { return s.err }

// Close stops the servers, closes their connections and waits until their addresses are free. It may be called twice.
func (s *Servers) Close() {
	s.stop()
	s.running.Wait()
}

// server is the HTTP server at one address.
type server struct {
	name, address string
	handler       http.Handler
	hardFail      bool
	retryInterval time.Duration
	failed        func(name string, err error)
	log           *slog.Logger
	reported      bool // since it last listened
}

// listen opens the address. As in kube-proxy, 0.0.0.0 and :: mean all addresses of both families.
func (s *server) listen(ctx context.Context) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address)
	switch {
	case ctx.Err() != nil:
		return listener, err
	case err != nil:
		return nil, s.report(err)
	case s.reported:
		s.log.Info("server is listening", "server", s.name, "address", s.address)
	}
	s.reported = false
	return listener, nil
}

// report logs once that the server is not listening and calls failed. It returns the error with the server's name and address.
func (s *server) report(err error) error {
	err = fmt.Errorf("%s server at %s: %w", s.name, s.address, err)
	if s.reported {
		return err
	}
	s.reported = true
	if !s.hardFail {
		s.log.Warn("server is not listening", "server", s.name, "address", s.address, "error", err, "retry", s.retryInterval)
	}
	if s.failed != nil {
		s.failed(s.name, err)
	}
	return err
}

// run serves until ctx ends. It uses the listener first, unless that is nil. With hardFail it returns the first error.
func (s *server) run(ctx context.Context, listener net.Listener) error {
	for {
		if listener != nil {
			if err := s.serve(ctx, listener); ctx.Err() == nil {
				if err = s.report(err); s.hardFail {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.retryInterval):
		}
		if ctx.Err() != nil {
			return nil
		}
		listener, _ = s.listen(ctx) // listen reports its error
	}
}

// Timeouts for slow and vanished clients. net/http/pprof extends the deadline by the duration of a profile.
const (
	requestTimeout  = 10 * time.Second
	responseTimeout = 30 * time.Second
	idleTimeout     = 2 * time.Minute
)

// serve serves until ctx ends or the listener fails. It waits for the accept loop before it closes connections, so that no
// connection is accepted afterwards.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	httpServer := &http.Server{
		Handler:        s.handler,
		ReadTimeout:    requestTimeout,
		WriteTimeout:   responseTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ConnState:      newConnections().track,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	err := httpServer.Serve(listener)
	return errors.Join(err, httpServer.Close())
}
