package health

import (
	"net"
	"net/http"
	"sync"
)

// Bounds of what clients can take: every host that reaches the node can connect to health check node ports.
const (
	// maxConnections is the largest number of open connections of the healthz server, of the metrics server, and of all health
	// check node ports together.
	maxConnections = 512
	// maxHeader is the largest size of a request's header in bytes, for which net/http allows 4 kB more. It has room for a
	// bearer token.
	maxHeader = 16 << 10
)

// connections limits the open connections of one or several HTTP servers. A new connection beyond the limit takes the place of
// the one that has been without a complete request for longest, so that clients that hold connections do not keep probes from
// being answered. If there is none, the new connection is closed.
type connections struct {
	max int

	mu      sync.Mutex
	arrived uint64 // counts the connections that began to wait
	open    map[net.Conn]uint64
}

// serving marks a connection whose request is being answered. Other connections have the number of arrived.
const serving = 0

func newConnections() *connections {
	return &connections{max: maxConnections, open: make(map[net.Conn]uint64)}
}

// track is a ConnState hook of http.Server.
func (c *connections) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if len(c.open) >= c.max && !c.evict() {
			_ = conn.Close() // the server notices when it reads
			return
		}
		c.wait(conn)
	case http.StateIdle:
		if _, ok := c.open[conn]; ok {
			c.wait(conn)
		}
	case http.StateActive:
		if _, ok := c.open[conn]; ok {
			c.open[conn] = serving
		}
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
}

// wait notes that a connection waits for a request. The caller holds the lock.
func (c *connections) wait(conn net.Conn) {
	c.arrived++
	c.open[conn] = c.arrived
}

// evict closes the connection that has waited for longest. It reports whether there is one. The caller holds the lock.
func (c *connections) evict() bool {
	var oldest net.Conn
	for conn, since := range c.open {
		if since != serving && (oldest == nil || since < c.open[oldest]) {
			oldest = conn
		}
	}
	if oldest == nil {
		return false
	}
	delete(c.open, oldest)
	_ = oldest.Close() // the server notices when it reads
	return true
}
