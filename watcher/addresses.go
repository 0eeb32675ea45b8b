package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"nfproxy/render"
)

// Addresses are the addresses of this machine's interfaces that lie inside given ranges, as they are now. Loopback,
// link-local and multicast addresses are never among them.
type Addresses struct {
	prefixes []netip.Prefix
	log      *slog.Logger
	changed  chan struct{}
	closing  func()
	closed   chan struct{}

	// Both sockets stay in the namespace they were opened in: neither is ever opened again.
	events *nl.NetlinkSocket
	list   *netlink.Handle
	// stale holds a token when the addresses have to be listed.
	stale chan struct{}

	mu   sync.Mutex
	have []netip.Addr
}

// NewAddresses lists the addresses of the calling thread's network namespace and follows them until Close. log gets what
// changes and what goes wrong.
func NewAddresses(prefixes []netip.Prefix, log *slog.Logger) (*Addresses, error) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("watch interface addresses: %w", err)
	}
	list, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	a := &Addresses{
		prefixes: prefixes,
		log:      log,
		changed:  make(chan struct{}, 1),
		closed:   make(chan struct{}),
		events:   events,
		list:     list,
		stale:    make(chan struct{}, 1),
	}
	var running sync.WaitGroup
	a.closing = sync.OnceFunc(func() {
		close(a.closed)
		events.Close()
		running.Wait()
		list.Close()
	})
	if a.have, err = a.read(); err != nil {
		a.Close()
		return nil, err
	}
	running.Go(a.receive)
	running.Go(a.follow)
	return a, nil
}

// Get returns the addresses, sorted. The caller must not change them.
func (a *Addresses) Get() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.have
}

// Changed holds a token when Get may return something else than before.
func (a *Addresses) Changed() <-chan struct{} { return a.changed }

// Close ends the watch: Get stays as it is. It may be called more than once.
func (a *Addresses) Close() error {
	a.closing()
	return nil
}

// receive notes that there are events. What they say is not needed, and so none is missed when the kernel drops some
// (ENOBUFS): that is an event too, and the socket lives on.
func (a *Addresses) receive() {
	for {
		_, _, err := a.events.Receive()
		select {
		case <-a.closed:
			return
		default:
		}
		poke(a.stale)
		if err == nil {
			continue
		}
		a.log.Warn("watching interface addresses, listing them again", "error", err)
		if !a.sleep(lookAgain) {
			return
		}
	}
}

// follow lists the addresses when there were events.
func (a *Addresses) follow() {
	for {
		select {
		case <-a.closed:
			return
		case <-a.stale:
		}
		now, err := a.read()
		if err != nil {
			a.log.Warn("interface addresses stay as they were", "error", err, "retry", lookAgain)
			if !a.sleep(lookAgain) {
				return
			}
			poke(a.stale)
			continue
		}
		a.set(now)
	}
}

func (a *Addresses) set(now []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Equal(a.have, now) {
		return
	}
	a.have = now
	a.log.Info("the addresses of node ports changed", "addresses", now)
	poke(a.changed)
}

// sleep waits, but not longer than until Close, and tells whether there is reason to go on.
func (a *Addresses) sleep(d time.Duration) bool {
	select {
	case <-a.closed:
		return false
	case <-time.After(d):
		return true
	}
}

// readAttempts is how often read lists anew when the addresses change while it does.
const readAttempts = 10

// read returns the addresses there are, sorted.
func (a *Addresses) read() ([]netip.Addr, error) {
	listed, err := a.list.AddrList(nil, netlink.FAMILY_ALL)
	for attempt := 1; errors.Is(err, netlink.ErrDumpInterrupted) && attempt < readAttempts; attempt++ {
		listed, err = a.list.AddrList(nil, netlink.FAMILY_ALL)
	}
	if err != nil {
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, l := range listed {
		if l.IPNet == nil {
			continue // of another family
		}
		if addr, ok := netip.AddrFromSlice(l.IP); ok && a.wanted(addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

func (a *Addresses) wanted(addr netip.Addr) bool {
	if addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() {
		return false
	}
	return slices.ContainsFunc(a.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// poke leaves a token if there is none.
func poke(tokens chan<- struct{}) {
	select {
	case tokens <- struct{}{}:
	default:
	}
}

// AddressSource is a source that serves node ports at the addresses of interfaces: it tells what another source does,
// but for the addresses of the node.
type AddressSource struct {
	addresses *Addresses
	// ask asks for one call of the other source's Next, answers gets what it returned.
	ask     chan struct{}
	answers chan answer
	closing func()
	closed  <-chan struct{}

	// The rest belongs to Next. asked says that an answer is on its way, told that the first Update is out.
	asked, told bool
	node        render.Node // as last told
	notEligible bool        // as last told
	services    map[render.ServiceName]render.Service
}

// answer is what a Next returned.
type answer struct {
	update render.Update
	err    error
}

// NewAddressSource returns a source that completes what next, the Next of another source, returns. Its calls of next do
// not overlap, and end with Close. The addresses' Changed is for it alone.
func NewAddressSource(next func(context.Context) (render.Update, error), addresses *Addresses) *AddressSource {
	ctx, cancel := context.WithCancel(context.Background())
	s := &AddressSource{
		addresses: addresses,
		ask:       make(chan struct{}, 1),
		answers:   make(chan answer, 1),
		closed:    ctx.Done(),
		services:  map[render.ServiceName]render.Service{},
	}
	var running sync.WaitGroup
	s.closing = func() {
		cancel()
		running.Wait()
	}
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.ask:
				update, err := next(ctx)
				if ctx.Err() != nil {
					return
				}
				s.answers <- answer{update, err} // there is room: one is asked for at a time
			}
		}
	})
	return s
}

// Close makes Next return an error that is os.ErrClosed, when the other source's Next has returned. It may be called more
// than once.
func (s *AddressSource) Close() error {
	s.closing()
	return nil
}

// Next blocks until the other source has something to tell, or, once it has, the addresses have changed. When ctx ends it
// returns ctx.Err(), and what the other source tells meanwhile is for the next call. It must not be called while another
// call is going on.
func (s *AddressSource) Next(ctx context.Context) (render.Update, error) {
	for {
		if err := s.ended(ctx); err != nil {
			return render.Update{}, err
		}
		if !s.asked {
			s.asked = true
			s.ask <- struct{}{}
		}
		var changed <-chan struct{}
		if s.told { // before it nothing is known of the Services
			changed = s.addresses.Changed()
		}
		select {
		case <-ctx.Done():
		case <-s.closed:
		case a := <-s.answers:
			s.asked = false
			if a.err != nil {
				return render.Update{}, a.err
			}
			return s.complete(a.update), nil
		case <-changed:
			if !slices.Equal(s.node.Addresses, s.addresses.Get()) {
				return s.complete(render.Update{Node: s.node, NotEligible: s.notEligible, Seen: time.Now()}), nil
			}
		}
	}
}

func (s *AddressSource) ended(ctx context.Context) error {
	select {
	case <-s.closed:
		return fmt.Errorf("follow interface addresses: %w", os.ErrClosed)
	default:
		return ctx.Err()
	}
}

// complete sets the addresses of an update. When they are not those of the last one it returns all Services.
func (s *AddressSource) complete(u render.Update) render.Update {
	for _, name := range u.Removed {
		delete(s.services, name)
	}
	for _, service := range u.Services {
		s.services[service.ServiceName] = service
	}
	u.Node.Addresses = s.addresses.Get()
	if s.told && !slices.Equal(s.node.Addresses, u.Node.Addresses) {
		u.Services = nil
		for _, name := range slices.SortedFunc(maps.Keys(s.services), render.ServiceName.Compare) {
			u.Services = append(u.Services, s.services[name])
		}
	}
	s.node, s.notEligible, s.told = u.Node, u.NotEligible, true
	return u
}
