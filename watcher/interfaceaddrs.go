package watcher

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// interfaceAddresses follows the addresses of this machine's interfaces that are inside given ranges. Loopback, link-local
// and multicast addresses are never included.
type interfaceAddresses struct {
	prefixes []netip.Prefix
	log      *slog.Logger
	// changed holds a token when get may return another result than before.
	changed chan struct{}
	closing func()
	closed  chan struct{}

	// Both sockets belong to the network namespace in which they were opened and are never reopened.
	events *nl.NetlinkSocket
	list   *netlink.Handle
	// stale holds a token when the addresses have to be listed again.
	stale chan struct{}

	mu      sync.Mutex
	current []netip.Addr
}

// followInterfaces lists the addresses of the calling thread's network namespace and follows their changes until close.
// Changes and failures are logged.
func followInterfaces(prefixes []netip.Prefix, log *slog.Logger) (*interfaceAddresses, error) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("watch interface addresses: %w", err)
	}
	list, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	a := &interfaceAddresses{
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
	if a.current, err = a.read(); err != nil {
		return nil, errors.Join(err, a.close())
	}
	running.Go(a.receive)
	running.Go(a.follow)
	return a, nil
}

// get returns the addresses, sorted. The caller must not modify the slice.
func (a *interfaceAddresses) get() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current
}

// close stops following changes; get keeps its last result. It may be called more than once.
func (a *interfaceAddresses) close() error {
	a.closing()
	return nil
}

// receive turns each event into a token in stale. The content of an event is not needed, so events that the kernel drops
// (ENOBUFS) do no harm: the error is an event too, and the socket stays usable.
func (a *interfaceAddresses) receive() {
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
		a.log.Warn("watching interface addresses failed; listing them again", "error", err)
		if !a.sleep(retryInterval) {
			return
		}
	}
}

// follow lists the addresses again after events.
func (a *interfaceAddresses) follow() {
	for {
		select {
		case <-a.closed:
			return
		case <-a.stale:
		}
		now, err := a.read()
		if err != nil {
			a.log.Warn("listing interface addresses failed; the last known ones stay in use", "error", err, "retry", retryInterval)
			if !a.sleep(retryInterval) {
				return
			}
			poke(a.stale)
			continue
		}
		a.set(now)
	}
}

func (a *interfaceAddresses) set(now []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Equal(a.current, now) {
		return
	}
	a.current = now
	a.log.Info("the addresses of node ports changed", "addresses", now)
	poke(a.changed)
}

// sleep waits for d or until close. It reports whether d has passed.
func (a *interfaceAddresses) sleep(d time.Duration) bool {
	select {
	case <-a.closed:
		return false
	case <-time.After(d):
		return true
	}
}

// readAttempts limits how often a list is requested when it changes while the kernel sends it.
const readAttempts = 10

// read lists the addresses, sorted.
func (a *interfaceAddresses) read() ([]netip.Addr, error) {
	listed, err := complete(func() ([]netlink.Addr, error) { return a.list.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, l := range listed {
		if l.IPNet == nil {
			continue // neither IPv4 nor IPv6
		}
		if addr, ok := netip.AddrFromSlice(l.IP); ok && a.wanted(addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// wanted reports whether node ports are served at an address.
func (a *interfaceAddresses) wanted(addr netip.Addr) bool {
	return servable(addr) && slices.ContainsFunc(a.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// poke puts a token into a channel of capacity 1 unless it holds one already.
func poke(tokens chan<- struct{}) {
	select {
	case tokens <- struct{}{}:
	default:
	}
}
