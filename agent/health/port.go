package health

import (
	"log/slog"
	"net/http"
	"time"
)

// Timeouts for slow and vanished clients: every host that reaches the node can connect to health check node ports.
const (
	portRequestTimeout = 10 * time.Second
	portIdleTimeout    = 2 * time.Minute
)

// newPortServer returns the HTTP server of one address and health check node port. All of them share the limit of connections.
func newPortServer(handler http.Handler, limit *connections, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:        handler,
		ReadTimeout:    portRequestTimeout,
		WriteTimeout:   portRequestTimeout,
		IdleTimeout:    portIdleTimeout,
		MaxHeaderBytes: maxHeader,
		ConnState:      limit.track,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
