package watcher

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/logtest"
	"nfproxy/render"

	"nfproxy/sandbox"
)

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) { os.Exit(sandbox.Main(m.Run)) }

// machine is a network namespace whose addresses a test changes.
type machine struct {
	*testing.T
	space   *sandbox.Namespace
	routing *netlink.Handle
	lo      netlink.Link
	log     logtest.Buffer
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	space, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{T: t, space: space}
	err = space.Do(func() (err error) {
		m.routing, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.lo, err = m.routing.LinkByName("lo"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.routing.Close()
		space.Close()
	})
	return m
}

func (m *machine) add(addrs ...string) { m.change(m.routing.AddrAdd, addrs) }
func (m *machine) del(addrs ...string) { m.change(m.routing.AddrDel, addrs) }

func (m *machine) change(f func(netlink.Link, *netlink.Addr) error, addrs []string) {
	m.Helper()
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			m.Fatal(err)
		}
		if err := f(m.lo, addr); err != nil {
			m.Fatalf("%s: %v", text, err)
		}
	}
}

// follow returns the Addresses inside the ranges.
func (m *machine) follow(ranges ...string) *Addresses {
	m.Helper()
	var prefixes []netip.Prefix
	for _, r := range ranges {
		prefixes = append(prefixes, netip.MustParsePrefix(r))
	}
	var a *Addresses
	err := m.space.Do(func() (err error) {
		a, err = NewAddresses(prefixes, slog.New(slog.NewTextHandler(&m.log, nil)))
		return err
	})
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { a.Close() })
	return a
}

func addrs(texts ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// become waits for changes until the addresses are these.
func (m *machine) become(a *Addresses, want ...string) {
	m.Helper()
	for deadline := time.After(10 * time.Second); !slices.Equal(a.Get(), addrs(want...)); {
		select {
		case <-a.Changed():
		case <-deadline:
			m.Fatalf("addresses %v, want %v", a.Get(), want)
		}
	}
}

func TestAddresses(t *testing.T) {
	m := newMachine(t)
	m.add("192.0.2.7/24", "192.0.2.5/32", "198.51.100.1/24", "2001:db8::5/64", "169.254.1.1/16", "fe80::5/64")
	everything := m.follow("0.0.0.0/0", "::/0")
	a := m.follow("192.0.2.0/24", "192.0.0.0/16", "127.0.0.0/8", "2001:db8::/32")

	// What there is at the start is there without a change; 127.0.0.1 and ::1 are of lo.
	if got := a.Get(); !slices.Equal(got, addrs("192.0.2.5", "192.0.2.7", "2001:db8::5")) {
		t.Errorf("addresses %v", got)
	}
	if got := everything.Get(); !slices.Equal(got, addrs("192.0.2.5", "192.0.2.7", "198.51.100.1", "2001:db8::5")) {
		t.Errorf("addresses of every range %v", got)
	}

	m.add("192.0.2.6/24")
	m.become(a, "192.0.2.5", "192.0.2.6", "192.0.2.7", "2001:db8::5")
	m.add("2001:db8::4/128")
	m.become(a, "192.0.2.5", "192.0.2.6", "192.0.2.7", "2001:db8::4", "2001:db8::5")
	m.del("192.0.2.5/32", "2001:db8::5/64")
	m.become(a, "192.0.2.6", "192.0.2.7", "2001:db8::4")

	// What is not served changes nothing.
	m.become(everything, "192.0.2.6", "192.0.2.7", "198.51.100.1", "2001:db8::4")
	m.add("203.0.113.1/24", "127.0.0.2/32", "fe80::6/64")
	m.become(everything, "192.0.2.6", "192.0.2.7", "198.51.100.1", "203.0.113.1", "2001:db8::4")
	m.add("192.0.2.8/24")
	m.become(a, "192.0.2.6", "192.0.2.7", "192.0.2.8", "2001:db8::4")
}

// TestAddressesWanted: no range makes node ports of addresses that are not reached from elsewhere.
func TestAddressesWanted(t *testing.T) {
	a := &Addresses{prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	for _, addr := range addrs("127.0.0.1", "127.1.2.3", "169.254.0.1", "224.0.0.1", "0.0.0.0", "::1", "fe80::1", "ff02::1", "::") {
		if a.wanted(addr) {
			t.Errorf("%s is wanted", addr)
		}
	}
	for _, addr := range addrs("10.0.0.1", "203.0.113.1", "2001:db8::1", "fd00::1") {
		if !a.wanted(addr) {
			t.Errorf("%s is not wanted", addr)
		}
	}
}

// TestAddressesOverrun: when the kernel drops events, the addresses are right in the end.
func TestAddressesOverrun(t *testing.T) {
	m := newMachine(t)
	a := m.follow("10.0.0.0/8")
	if err := unix.SetsockoptInt(a.events.GetFd(), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	last := netip.MustParseAddr("10.0.0.0")
	var want []string
	for range 500 {
		last = last.Next()
		want = append(want, last.String())
		m.add(last.String() + "/32")
	}
	m.become(a, want...)
	m.add("10.1.0.1/32")
	m.become(a, append(want, "10.1.0.1")...)
	if len(m.log.Lines("no buffer space")) == 0 {
		t.Error("the kernel did not drop any event")
	}
}

// stub is a source that tells what a test sends it.
type stub struct {
	updates chan render.Update
	calls   chan struct{} // holds a token while Next is called
	t       *testing.T
}

func newStub(t *testing.T) *stub {
	return &stub{make(chan render.Update), make(chan struct{}, 1), t}
}

func (s *stub) next(ctx context.Context) (render.Update, error) {
	select {
	case s.calls <- struct{}{}:
	default:
		s.t.Error("two calls of Next at once")
	}
	defer func() { <-s.calls }()
	select {
	case <-ctx.Done():
		return render.Update{}, ctx.Err()
	case u := <-s.updates:
		if u.Node.Name == "" {
			return u, errors.New("a source that fails")
		}
		return u, nil
	}
}

func named(names ...string) (services []render.Service) {
	for _, n := range names {
		services = append(services, render.Service{ServiceName: render.ServiceName{Namespace: "default", Name: n}})
	}
	return services
}

func TestAddressSource(t *testing.T) {
	m := newMachine(t)
	m.add("192.0.2.1/24")
	inner := newStub(t)
	a := m.follow("192.0.2.0/24")
	s := NewAddressSource(inner.next, a)
	defer s.Close()
	node := render.Node{Name: "node-a", Zone: "z", Addresses: addrs("198.51.100.1")}
	expect := func(services []render.Service, removed []render.ServiceName, at ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		got, err := s.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		want := render.Update{Node: node, Services: services, Removed: removed, Seen: got.Seen}
		want.Node.Addresses = addrs(at...)
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Fatalf("update (-want +got):\n%s", diff)
		}
	}
	silent := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if u, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("update %v, error %v", u, err)
		}
	}

	// Before the source has told of the Services, a change of the addresses is not told.
	m.add("192.0.2.2/24")
	for len(a.Get()) < 2 {
		time.Sleep(time.Millisecond)
	}
	silent()
	inner.updates <- render.Update{Node: node, Services: named("b", "a")}
	expect(named("b", "a"), nil, "192.0.2.1", "192.0.2.2")
	silent()

	// Updates of the source are passed on, also one that came while Next had given up.
	inner.updates <- render.Update{Node: node, Services: named("c"), Removed: []render.ServiceName{named("b")[0].ServiceName}}
	expect(named("c"), []render.ServiceName{named("b")[0].ServiceName}, "192.0.2.1", "192.0.2.2")

	// What an update says of the node goes on to hold.
	silent()
	inner.updates <- render.Update{Node: node, NotEligible: true}
	if u, err := s.Next(t.Context()); err != nil || !u.NotEligible {
		t.Errorf("update %v, error %v", u, err)
	}
	m.add("192.0.2.9/24")
	if u, err := s.Next(t.Context()); err != nil || !u.NotEligible || u.Seen.IsZero() {
		t.Errorf("update %v, error %v", u, err)
	}
	m.del("192.0.2.9/24")
	inner.updates <- render.Update{Node: node}
	for eligible := false; !eligible || len(a.Get()) > 2; {
		u, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		eligible = !u.NotEligible
	}
	silent()

	// An address that comes or goes tells all Services again, while the source is still being asked.
	m.add("192.0.2.3/24")
	expect(named("a", "c"), nil, "192.0.2.1", "192.0.2.2", "192.0.2.3")
	m.del("192.0.2.2/24")
	expect(named("a", "c"), nil, "192.0.2.1", "192.0.2.3")
	silent()

	// An update and a change at once lose neither: all Services go out with the first, the changed one with whichever it is.
	changed := named("c")
	changed[0].HealthCheckNodePort = 30000
	m.add("192.0.2.4/24")
	for len(a.Get()) < 3 {
		time.Sleep(time.Millisecond)
	}
	inner.updates <- render.Update{Node: node, Services: changed}
	all := map[string]uint16{}
	for all["c"] == 0 {
		u, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, service := range u.Services {
			all[service.Name] = service.HealthCheckNodePort
		}
		if len(u.Node.Addresses) != 3 {
			t.Errorf("addresses %v", u.Node.Addresses)
		}
	}
	if _, ok := all["a"]; !ok {
		t.Errorf("Services %v", all)
	}
	silent()

	// An error of the source is passed on, and the source asked again.
	inner.updates <- render.Update{}
	if _, err := s.Next(t.Context()); err == nil || err.Error() != "a source that fails" {
		t.Errorf("error %v", err)
	}
	silent()
	inner.updates <- render.Update{Node: node, Services: named("d")}
	expect(named("d"), nil, "192.0.2.1", "192.0.2.3", "192.0.2.4")
	s.Close()
	if _, err := s.Next(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestAddressesClose: Close leaves no goroutine and no descriptor behind, and wakes Next.
func TestAddressesClose(t *testing.T) {
	m := newMachine(t)
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	m.follow("::/0").Close() // what the runtime opens once is open
	goroutines, files := runtime.NumGoroutine(), descriptors()
	for range 50 {
		a := m.follow("192.0.2.0/24")
		s := NewAddressSource(newStub(t).next, a)
		woken := make(chan error)
		go func() {
			_, err := s.Next(t.Context())
			woken <- err
		}()
		runtime.Gosched()
		s.Close()
		s.Close()
		if err := <-woken; !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Next returned %v", err)
		}
		a.Close()
		a.Close()
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines || descriptors() > files; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before; %d descriptors, %d before", runtime.NumGoroutine(), goroutines, descriptors(), files)
		}
	}
}
