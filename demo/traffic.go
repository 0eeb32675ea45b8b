package demo

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// get opens a connection to a frontend and returns the backend that answered.
func (n *network) get(ctx context.Context, frontend string) (backend string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var peer net.Addr
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := n.client.Dial(ctx, network, "", addr)
			if err == nil {
				peer = conn.RemoteAddr()
			}
			return conn, err
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+frontend, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	backend, ok := strings.CutPrefix(string(body), greeting)
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", fmt.Errorf("%s answered: %s", frontend, strings.TrimSpace(string(body)))
	case peer.String() != frontend:
		return "", fmt.Errorf("connection to %s has the peer %s", frontend, peer)
	}
	return backend, nil
}

// tally counts the results of connections.
type tally struct {
	total    int
	served   map[string]int // by backend
	failures []error
}

func (t *tally) add(backend string, err error) {
	t.total++
	if err != nil {
		t.failures = append(t.failures, err)
		return
	}
	t.served[backend]++
}

// connect opens connections to a frontend, one after another.
func (n *network) connect(ctx context.Context, frontend string, count int) tally {
	t := tally{served: make(map[string]int)}
	for range count {
		t.add(n.get(ctx, frontend))
		if ctx.Err() != nil {
			break
		}
	}
	return t
}

// check returns what is wrong with a tally of n connections: failures, responses of backends that are no endpoints of the
// Service, and shares that differ from equal ones by more than seven standard deviations.
func (t tally) check(svc *service, n int) []error {
	var problems []error
	if len(t.failures) > 0 {
		problems = append(problems, fmt.Errorf("%s: %d connections failed, the first: %w", svc.name(), len(t.failures), t.failures[0]))
	}
	p := 1 / float64(len(svc.endpoints()))
	bound := 7 * math.Sqrt(float64(n)*p*(1-p))
	known := 0
	for _, e := range svc.endpoints() {
		known += t.served[e]
		if math.Abs(float64(t.served[e])-float64(n)*p) > bound {
			problems = append(problems, fmt.Errorf("%s: %s got %d of %d connections", svc.name(), e, t.served[e], n))
		}
	}
	if known+len(t.failures) != t.total {
		problems = append(problems, fmt.Errorf("%s: a backend that is not its endpoint answered: %v", svc.name(), t.served))
	}
	return problems
}

// load opens connections to a frontend in the background.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	tally  tally
	since  int // connections since the start or the last reset
}

// startLoad starts to open connections to a frontend, one after another, until the load is stopped or ctx ends.
func (n *network) startLoad(ctx context.Context, frontend string) *load {
	running, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, done: make(chan struct{}), tally: tally{served: make(map[string]int)}}
	go func() {
		defer close(l.done)
		for running.Err() == nil {
			backend, err := n.get(ctx, frontend)
			l.mu.Lock()
			l.tally.add(backend, err)
			l.since++
			l.mu.Unlock()
		}
	}()
	return l
}

// forget resets the counts of the backends, after the connection in progress has ended.
func (l *load) forget(ctx context.Context) error {
	l.reset()
	err := l.atLeast(ctx, 1)
	l.reset()
	return err
}

// reset sets the counts of the backends to 0.
func (l *load) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.tally.served)
	l.since = 0
}

// atLeast waits until n connections have ended since the start or the last reset.
func (l *load) atLeast(ctx context.Context, n int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		l.mu.Lock()
		enough := l.since >= n
		l.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d connections: %w", n, ctx.Err())
		}
	}
}

// stop stops the load and returns its tally.
func (l *load) stop() tally {
	l.cancel()
	<-l.done
	return l.tally
}
