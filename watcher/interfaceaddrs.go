package watcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// localAddresses are addresses of this machine. Both lists are sorted and omit loopback and multicast addresses.
type localAddresses struct {
	// ofInterfaces are the addresses that are assigned to interfaces, even if an interface is down.
	ofInterfaces []netip.Addr
	// all are the addresses to which the kernel delivers packets on this machine: the host routes of type local in the routing
	// table local. These are the addresses of interfaces outside VRFs, and those of routes that were added. A route of type local
	// to a wider range is omitted.
	all []netip.Addr
}

func (l localAddresses) equal(m localAddresses) bool {
	return slices.Equal(l.ofInterfaces, m.ofInterfaces) && slices.Equal(l.all, m.all)
}

// interfaceAddresses follows the addresses of this machine.
type interfaceAddresses struct {
	families []int
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
	current localAddresses
}

// followInterfaces lists the addresses of the calling thread's network namespace and follows their changes until close.
// Failures are logged.
func followInterfaces(ipv4Only bool, log *slog.Logger) (*interfaceAddresses, error) {
	events, err := subscribe()
	if err != nil {
		return nil, fmt.Errorf("watch interface addresses: %w", err)
	}
	list, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		events.Close()
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	a := &interfaceAddresses{
		families: []int{netlink.FAMILY_V4},
		log:      log,
		changed:  make(chan struct{}, 1),
		closed:   make(chan struct{}),
		events:   events,
		list:     list,
		stale:    make(chan struct{}, 1),
	}
	if !ipv4Only {
		a.families = append(a.families, netlink.FAMILY_V6)
	}
	var running sync.WaitGroup
	a.closing = sync.OnceFunc(func() {
		close(a.closed)
		events.Close()
		running.Wait()
		list.Close()
	})
	// With strict checks the kernel sends only the routes that are asked for, of possibly a million (ip_valid_fib_dump_req in
	// net/ipv4/fib_frontend.c).
	err = list.SetStrictCheck(true)
	if err == nil {
		a.current, err = a.read()
	}
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	running.Go(a.receive)
	running.Go(a.follow)
	return a, nil
}

// subscribe returns a socket that receives notifications of changes of addresses, links and routes of type local. Links are
// among them because the kernel removes the IPv4 routes of a deleted interface without a notification of routes (fib_flush in
// net/ipv4/fib_frontend.c).
func subscribe() (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(exceptOtherRoutes())
	if err == nil {
		program := make([]unix.SockFilter, len(filter))
		for i, f := range filter {
			program[i] = unix.SockFilter{Code: f.Op, Jt: f.Jt, Jf: f.Jf, K: f.K}
		}
		err = unix.SetsockoptSockFprog(s.GetFd(), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// exceptOtherRoutes returns a filter that drops notifications about routes of other types than local. It runs in the kernel, so
// that a routing daemon with a million routes neither fills the receive buffer nor wakes this process.
func exceptOtherRoutes() []bpf.Instruction {
	const (
		messageTypeOffset = 4                       // nlmsg_type in struct nlmsghdr
		routeTypeOffset   = unix.SizeofNlMsghdr + 7 // rtm_type in struct rtmsg
	)
	message := func(kind uint16) uint32 { // the filter converts from network byte order, although nlmsg_type is in the CPU's
		return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, kind)))
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: messageTypeOffset, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: message(unix.RTM_NEWROUTE), SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: message(unix.RTM_DELROUTE), SkipTrue: 2},
		bpf.LoadAbsolute{Off: routeTypeOffset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.RTN_LOCAL, SkipTrue: 1},
		bpf.RetConstant{Val: ^uint32(0)},
		bpf.RetConstant{Val: 0},
	}
}

// get returns the addresses. The caller must not modify them.
func (a *interfaceAddresses) get() localAddresses {
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

func (a *interfaceAddresses) set(now localAddresses) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current.equal(now) {
		return
	}
	a.current = now
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

// read lists the addresses.
func (a *interfaceAddresses) read() (now localAddresses, err error) {
	if now.ofInterfaces, err = a.readInterfaces(); err != nil {
		return now, fmt.Errorf("list interface addresses: %w", err)
	}
	for _, family := range a.families {
		addrs, err := a.readLocalRoutes(family)
		if err != nil {
			return now, fmt.Errorf("list local routes: %w", err)
		}
		now.all = append(now.all, addrs...)
	}
	return localAddresses{reachable(now.ofInterfaces), reachable(now.all)}, nil
}

// readInterfaces lists the addresses of interfaces.
func (a *interfaceAddresses) readInterfaces() (addrs []netip.Addr, err error) {
	listed, err := complete(func() ([]netlink.Addr, error) { return a.list.AddrList(nil, netlink.FAMILY_ALL) })
	for _, l := range listed {
		if l.IPNet == nil {
			continue // neither IPv4 nor IPv6
		}
		if addr, ok := netip.AddrFromSlice(l.IP); ok {
			addrs = append(addrs, addr)
		}
	}
	return addrs, err
}

// readLocalRoutes lists the destinations of the host routes of type local in the routing table local.
func (a *interfaceAddresses) readLocalRoutes(family int) (addrs []netip.Addr, err error) {
	local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	listed, err := complete(func() ([]netlink.Route, error) {
		return a.list.RouteListFiltered(family, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // the table exists when it has had a route
	}
	for _, l := range listed {
		if l.Dst == nil {
			continue // 0.0.0.0/0 or ::/0
		}
		addr, ok := netip.AddrFromSlice(l.Dst.IP)
		if bits, _ := l.Dst.Mask.Size(); ok && bits == addr.BitLen() {
			addrs = append(addrs, addr)
		}
	}
	return addrs, err
}

// reachable returns the addresses that other hosts or Pods may reach, sorted, without duplicates.
func reachable(addrs []netip.Addr) []netip.Addr {
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() })
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// poke puts a token into a channel of capacity 1 unless it holds one already.
func poke(tokens chan<- struct{}) {
	select {
	case tokens <- struct{}{}:
	default:
	}
}
