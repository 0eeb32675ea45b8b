package watcher

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"nfproxy/render"
)

// API is a source that follows the API server: Services, EndpointSlices, this machine's Node and the ServiceCIDRs.
//
// While the API server cannot be reached it tells nothing, and afterwards what differs. It asks for the initial objects as
// a stream (KEP-3157) and, where the server has none, for lists.
type API struct {
	node    render.Node
	clients *clients
	closing func()
	closed  <-chan struct{}
	// wake holds a token when there may be something to tell.
	wake chan struct{}

	mu      sync.Mutex
	catalog *catalog
	// unsynced are the resources that nothing is known of yet, told says that the first Update is out.
	unsynced map[string]bool
	told     bool
}

// NewAPI follows the API server that config leads to. The node is this machine; its Node object gives the zone and the
// addresses, and ServiceCIDRs are added to those that are given. log gets what is wrong with the objects, and when the
// connection is lost and found. It is an error if no client can be made of config; an API server that does not answer is
// none.
func NewAPI(config *rest.Config, node render.Node, log *slog.Logger) (*API, error) {
	return newAPI(config, node, log, &wait.Backoff{Duration: minReconnect, Factor: 2, Jitter: 0.5, Steps: math.MaxInt32, Cap: maxReconnect})
}

// Bounds of the time between attempts to reach an API server that does not answer. With client-go's own it is up to a minute, which
// is long for a node that has to hear of its Services again; what many nodes ask at once is spread by jitter.
const (
	minReconnect = 500 * time.Millisecond
	maxReconnect = 10 * time.Second
)

// newAPI has a backoff between attempts, nil for client-go's.
func newAPI(config *rest.Config, node render.Node, log *slog.Logger, backoff *wait.Backoff) (*API, error) {
	clients, err := newClients(config)
	if err != nil {
		return nil, err
	}
	c := newCatalog(log)
	c.nodeNeeded = true
	// What client-go has to say is for the debug log: connections tells what matters.
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
	state := newConnection(log)
	for _, r := range resources(node.Name) {
		client, err := clients.of(r.version)
		if err != nil {
			cancel()
			return nil, err
		}
		a.unsynced[r.name] = true
		s := &store{resource: r, api: a, client: client, connection: state}
		reflectors = append(reflectors, s.reflector(ctx, backoff))
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

// Close ends the watches and the connections, and makes Next return an error that is os.ErrClosed. It may be called more
// than once.
func (a *API) Close() error {
	a.closing()
	return nil
}

// Next blocks until something has changed and returns everything that has since the last call. The first call returns all
// there is, when the API server has told it: if it has no ServiceCIDRs, or refuses to tell of them, it does without. When
// ctx ends it returns ctx.Err(). What it returns is kept to compare with and must not be changed. It must not be called
// while another call is going on.
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
		if update, news := a.take(); news {
			return update, nil
		}
		select {
		case <-ctx.Done():
		case <-a.closed:
		case <-a.wake:
		}
	}
}

// take returns what has changed and tells whether there is anything.
func (a *API) take() (render.Update, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.unsynced) > 0 {
		return render.Update{}, false
	}
	update, news := a.catalog.update(a.node)
	if !a.told && a.catalog.node == nil {
		a.catalog.log.Warn("this machine's Node is not there, so no node port has an address yet", "node", a.node.Name)
	}
	news = news || !a.told
	a.told = true
	return update, news
}

// change lets f put into the catalog what arrived.
func (a *API) change(arrived time.Time, f func(*catalog)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.catalog.arrived = arrived
	f(a.catalog)
	if !a.catalog.seen.IsZero() {
		poke(a.wake)
	}
}

// synced notes that the catalog has all objects of a resource, or that it is known to have none.
func (a *API) synced(resource string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unsynced[resource] {
		delete(a.unsynced, resource)
		poke(a.wake)
	}
}
