package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"nfproxy/integration/sandbox"
)

// demoNetwork is the node with the client and the backends, who answer HTTP.
type demoNetwork struct {
	*sandbox.Network
	client  *sandbox.Pod
	servers map[string]*http.Server // by the backend's address
}

// newDemoNetwork makes the current namespace the node.
func newDemoNetwork() (*demoNetwork, error) {
	node, err := sandbox.Current()
	if err != nil {
		return nil, err
	}
	network, err := sandbox.NewNetwork(node, netip.MustParseAddr("192.0.2.10"))
	if err != nil {
		return nil, err
	}
	d := &demoNetwork{Network: network, servers: make(map[string]*http.Server)}
	if err := d.addPods(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *demoNetwork) addPods() (err error) {
	if d.client, err = d.AddPod("client", netip.MustParseAddr(demoClient)); err != nil {
		return err
	}
	for _, svc := range demoServices() {
		for _, addr := range append(svc.endpoints, demoSpares(svc)...) {
			if err := d.addBackend(netip.AddrPortFrom(netip.MustParseAddr(addr), svc.port)); err != nil {
				return err
			}
		}
	}
	return nil
}

// demoSpares are the backends that a Service gets later.
func demoSpares(svc demoService) []string {
	switch svc.name {
	case "default/echo-service":
		return []string{"10.244.2.90"}
	case "default/nginx":
		return []string{"10.0.0.224"}
	}
	return nil
}

// addBackend starts a pod that says who it is, and refuses whoever is not the client: a source that was translated on
// the way would be somebody else.
func (d *demoNetwork) addBackend(at netip.AddrPort) error {
	pod, err := d.AddPod(at.Addr().String(), at.Addr())
	if err != nil {
		return err
	}
	listener, err := pod.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || from.Addr().String() != demoClient {
			http.Error(w, fmt.Sprintf("%s was reached from %s, not from the client", at.Addr(), r.RemoteAddr), http.StatusForbidden)
			return
		}
		fmt.Fprint(w, demoGreeting, at.Addr())
	})}
	d.servers[at.Addr().String()] = server
	go server.Serve(listener) // ends with Close
	return nil
}

const demoGreeting = "Hello! I am Pod: "

// stop ends a backend: who still connects to it is refused.
func (d *demoNetwork) stop(backend string) error { return d.servers[backend].Close() }

// Close ends the backends and the network.
func (d *demoNetwork) Close() error {
	var errs []error
	for _, s := range d.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errors.Join(errs...), d.Network.Close())
}

// get opens one connection to a frontend and returns which backend answered.
func (d *demoNetwork) get(ctx context.Context, frontend string) (backend string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var peer net.Addr
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := d.client.Dial(ctx, network, "", addr)
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
	backend, ok := strings.CutPrefix(string(body), demoGreeting)
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", fmt.Errorf("%s answered: %s", frontend, strings.TrimSpace(string(body)))
	case peer.String() != frontend:
		return "", fmt.Errorf("the answer of %s came from %s", frontend, peer)
	}
	return backend, nil
}

// tally is what came of connections.
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

// connect opens n connections to a frontend, one after the other.
func (d *demoNetwork) connect(ctx context.Context, frontend string, n int) tally {
	t := tally{served: make(map[string]int)}
	for range n {
		t.add(d.get(ctx, frontend))
		if ctx.Err() != nil {
			break
		}
	}
	return t
}

// check says what is wrong with a tally of n connections: failures, strangers, or shares that chance does not explain
// (seven standard deviations of a fair choice).
func (t tally) check(svc demoService, n int) []error {
	var problems []error
	if len(t.failures) > 0 {
		problems = append(problems, fmt.Errorf("%s: %d connections failed, the first: %w", svc.name, len(t.failures), t.failures[0]))
	}
	p := 1 / float64(len(svc.endpoints))
	bound := 7 * math.Sqrt(float64(n)*p*(1-p))
	known := 0
	for _, e := range svc.endpoints {
		known += t.served[e]
		if math.Abs(float64(t.served[e])-float64(n)*p) > bound {
			problems = append(problems, fmt.Errorf("%s: %s got %d of %d connections", svc.name, e, t.served[e], n))
		}
	}
	if known+len(t.failures) != t.total {
		problems = append(problems, fmt.Errorf("%s: others than its endpoints answered: %v", svc.name, t.served))
	}
	return problems
}

// load keeps connecting to a frontend in the background.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	tally  tally
	since  int // connections since forget
}

func (d *demoNetwork) startLoad(ctx context.Context, frontend string) *load {
	running, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, done: make(chan struct{}), tally: tally{served: make(map[string]int)}}
	go func() {
		defer close(l.done)
		for running.Err() == nil {
			backend, err := d.get(ctx, frontend)
			l.mu.Lock()
			l.tally.add(backend, err)
			l.since++
			l.mu.Unlock()
		}
	}()
	return l
}

// forget starts the count of who served anew, after the connection that is under way.
func (l *load) forget(ctx context.Context) error {
	l.restart()
	err := l.atLeast(ctx, 1)
	l.restart()
	return err
}

func (l *load) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.tally.served)
	l.since = 0
}

// atLeast waits until n connections have been opened since the start or the last restart.
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
			return fmt.Errorf("waiting for %d connections: %w", n, ctx.Err())
		}
	}
}

// stop ends the load and returns what came of it.
func (l *load) stop() tally {
	l.cancel()
	<-l.done
	return l.tally
}
