package watcher

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"nfproxy/render"
)

// API is a source that follows the API server: Services, EndpointSlices, this machine's Node and the ServiceCIDRs.
//
// While the API server is unavailable, API reports nothing; afterwards it reports what differs. It requests the initial
// objects as a stream (KEP-3157), and as lists from a server without streams.
type API struct {
	node    render.Node
	clients *restClients
	closing func()
	closed  <-chan struct{}
	// wake holds a token when there may be something to report.
	wake chan struct{}

	mu      sync.Mutex
	catalog *catalog
	// unsynced are the resources whose objects are not known yet. started is false until the first Update.
	unsynced map[string]bool
	started  bool
}

// newAPI returns a source that follows the API server of config. node describes this machine: its Node object adds the zone
// and the addresses, and the ServiceCIDRs of the API server are added to those of node. Problems of objects and changes of
// the API server's availability are logged. newAPI returns an error if config is invalid, but not if the API server is
// unavailable.
func newAPI(config *rest.Config, node render.Node, nodePorts nodePortAddresses, p pace, log *slog.Logger) (*API, error) {
	clients, err := newRESTClients(config, p)
	if err != nil {
		return nil, err
	}
	c := newCatalog(log)
	c.nodeRequired, c.nodePorts = true, nodePorts
	// Messages of client-go go to the debug log. Type availability logs what an operator has to know.
	ctx := klog.NewContext(context.Background(), logr.FromSlogHandler(log.Handler()).V(-int(slog.LevelDebug)))
	ctx, cancel := context.WithCancel(ctx)
	a := &API{
		node:     node,
		clients:  clients,
		closed:   ctx.Done(),
		wake:     make(chan struct{}, 1),
		catalog:  c,
		unsynced: map[string]bool{},
	}
	var reflectors []*cache.Reflector
	server := newAvailability(log)
	for _, r := range resources(node) {
		client, err := clients.forVersion(r.version)
		if err != nil {
			cancel()
			return nil, err
		}
		a.unsynced[r.name] = true
		reflectors = append(reflectors, newStore(r, a, client, server, p).reflector(ctx))
	}
	var running sync.WaitGroup
	for _, r := range reflectors {
		running.Go(func() { r.RunWithContext(ctx) })
	}
	a.closing = func() {
		cancel()
		running.Wait()
		clients.close()
	}
	return a, nil
}

// Close ends the watches and the connections. A pending or later Next returns an error that wraps os.ErrClosed. Close may
// be called more than once.
func (a *API) Close() error {
	a.closing()
	return nil
}

// Next blocks until something has changed and returns everything that has changed since the previous call. The first call
// returns the complete state once the API server has sent it; it does not wait for ServiceCIDRs if the server has no such
// resource or forbids access to it. When ctx ends, Next returns ctx.Err(). The catalog keeps what Next returns, so callers
// must not modify it. Calls must not overlap.
func (a *API) Next(ctx context.Context) (render.Update, error) {
	for {
		select {
		case <-a.closed:
			return render.Update{}, fmt.Errorf("follow the API server: %w", os.ErrClosed)
		default:
		}
		if ctx.Err() != nil {
			return render.Update{}, ctx.Err()
		}
		if update, changed := a.update(); changed {
			return update, nil
		}
		select {
		case <-ctx.Done():
		case <-a.closed:
		case <-a.wake:
		case <-a.catalog.nodePorts.changed():
		}
	}
}

// update returns the next Update. It reports whether there is anything to return.
func (a *API) update() (render.Update, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.unsynced) > 0 {
		return render.Update{}, false
	}
	if !a.started && a.catalog.node == nil {
		return a.startWithoutNode(), true
	}
	update, changed := a.catalog.update(a.node)
	changed = changed || !a.started
	a.started = true
	return update, changed
}

// startWithoutNode returns the first Update if there is no Node object: a restart while the object is absent must not remove
// the node ports.
func (a *API) startWithoutNode() render.Update {
	var err error
	if a.node.Addresses, err = a.catalog.nodePorts.withoutNode(); err != nil {
		a.catalog.log.Warn("listing the default routes failed", "error", err)
	}
	update, _ := a.catalog.update(a.node)
	a.started = true
	a.catalog.log.Warn("the Node object of this machine does not exist", "node", a.node.Name, "addresses", update.Node.Addresses)
	return update
}

// change runs f, which changes the catalog because of what arrived at the given time.
func (a *API) change(arrived time.Time, f func(*catalog)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.catalog.arrived = arrived
	f(a.catalog)
	if !a.catalog.seen.IsZero() {
		poke(a.wake)
	}
}

// synced records that the catalog holds all objects of a resource, or that the API server has none.
func (a *API) synced(resource string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unsynced[resource] {
		delete(a.unsynced, resource)
		poke(a.wake)
	}
}
