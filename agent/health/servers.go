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

// The servers by name.
const (
	HealthzServer = "healthz"
	metricsServer = "metrics"
)

// serveAgain is the time between attempts to serve at an address that cannot be had, kube-proxy's.
const serveAgain = 5 * time.Second

// servers answer who asks after the node's health, for metrics and for what concerns the process.
type servers struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	err     chan error
}

// newServers serves at the addresses that the settings have, if any. inUse is what /configz shows: a
// KubeProxyConfiguration of version v1alpha1. failed, if not nil, is told of a server's name and why it does not serve,
// once until it does again, by any goroutine. With bindAddressHardFail that is an error, now or later by Err; without, the
// server is tried again. The caller closes what is returned.
func NewServers(set config.Settings, m *metrics.Recorder, h *Node, inUse any, failed func(name string, err error),
	log *slog.Logger) (*servers, error) {
	beside, err := metricsHandler(m, h, inUse, set.Profiling, log)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &servers{stop: stop, err: make(chan error, 1)}
	for _, one := range []server{
		{name: HealthzServer, address: set.Healthz, handler: healthzHandler(m, h)},
		{name: metricsServer, address: set.Metrics, handler: beside},
	} {
		if one.address == "" {
			continue
		}
		one.hardFail, one.again, one.failed, one.log = set.BindAddressHardFail, serveAgain, failed, log
		if err := s.start(ctx, &one); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// start listens, so that the address is open when it returns, and goes on by itself.
func (s *servers) start(ctx context.Context, one *server) error {
	listener, err := one.listen(ctx)
	if err != nil && one.hardFail {
		return err
	}
	s.keep(ctx, one, listener)
	return nil
}

// keep serves until ctx ends, by the listener first, if it is not nil.
func (s *servers) keep(ctx context.Context, one *server, listener net.Listener) {
	s.running.Go(func() {
		if err := one.run(ctx, listener); err != nil {
			select {
			case s.err <- err:
			default: // the first is enough to end
			}
		}
	})
}

// Err receives an error when a server ended that must not.
func (s *servers) Err() <-chan error { return s.err }

// Close ends the servers and their connections, and waits until their addresses are free. Closing twice is no error.
func (s *servers) Close() {
	s.stop()
	s.running.Wait()
}

// server serves at one address.
type server struct {
	name, address string
	handler       http.Handler
	hardFail      bool
	again         time.Duration
	failed        func(name string, err error)
	log           *slog.Logger
	reported      bool // that it does not serve
}

// listen opens the address. 0.0.0.0 and :: mean all addresses of both families, as for kube-proxy.
func (s *server) listen(ctx context.Context) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address)
	switch {
	case ctx.Err() != nil:
		return listener, err
	case err != nil:
		return nil, s.report(err)
	case s.reported:
		s.log.Info("server is there now", "server", s.name, "address", s.address)
	}
	s.reported = false
	return listener, nil
}

// report says once that the server does not serve, and returns the error with its name.
func (s *server) report(err error) error {
	err = fmt.Errorf("%s server at %s: %w", s.name, s.address, err)
	if s.reported {
		return err
	}
	s.reported = true
	if !s.hardFail {
		s.log.Warn("server does not serve", "server", s.name, "address", s.address, "error", err, "retry", s.again)
	}
	if s.failed != nil {
		s.failed(s.name, err)
	}
	return err
}

// run serves until ctx ends, at first by the listener, if there is one. With hardFail it ends by an error as well.
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
		case <-time.After(s.again):
		}
		if ctx.Err() != nil {
			return nil
		}
		listener, _ = s.listen(ctx) // it has reported the error
	}
}

// Bounds for clients that are slow or gone. Profiles take as long as they are asked for, in addition.
const (
	requestTimeout = 10 * time.Second
	answerTimeout  = 30 * time.Second
	idleTimeout    = 2 * time.Minute
)

// serve answers until ctx ends or the listener fails. Connections are closed when no more can come: one that is accepted
// meanwhile would live on.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	answers := &http.Server{
		Handler:      s.handler,
		ReadTimeout:  requestTimeout,
		WriteTimeout: answerTimeout,
		IdleTimeout:  idleTimeout,
		ErrorLog:     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	err := answers.Serve(listener)
	return errors.Join(err, answers.Close())
}
