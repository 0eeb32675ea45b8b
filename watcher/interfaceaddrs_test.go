package watcher

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/logtest"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestMain runs the tests in a separate network namespace.
func TestMain(m *testing.M) { os.Exit(sandbox.Main(m.Run)) }

// machine is a network namespace in which a test changes the addresses of lo.
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

// follow follows the addresses inside the ranges.
func (m *machine) follow(ranges ...string) *interfaceAddresses {
	m.Helper()
	var prefixes []netip.Prefix
	for _, r := range ranges {
		prefixes = append(prefixes, netip.MustParsePrefix(r))
	}
	var a *interfaceAddresses
	err := m.space.Do(func() (err error) {
		a, err = followInterfaces(prefixes, slog.New(slog.NewTextHandler(&m.log, nil)))
		return err
	})
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { a.close() })
	return a
}

func addrs(texts ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// become waits until the addresses are the wanted ones.
func (m *machine) become(a *interfaceAddresses, want ...string) {
	m.Helper()
	for deadline := time.After(10 * time.Second); !slices.Equal(a.get(), addrs(want...)); {
		select {
		case <-a.changed:
		case <-deadline:
			m.Fatalf("addresses %v, want %v", a.get(), want)
		}
	}
}

func TestInterfaceAddresses(t *testing.T) {
	m := newMachine(t)
	m.add("192.0.2.7/24", "192.0.2.5/32", "198.51.100.1/24", "2001:db8::5/64", "169.254.1.1/16", "fe80::5/64")
	everything := m.follow("0.0.0.0/0", "::/0")
	a := m.follow("192.0.2.0/24", "192.0.0.0/16", "127.0.0.0/8", "2001:db8::/32")

	// The initial addresses are there without a change. 127.0.0.1 and ::1 of lo are not among them.
	if got := a.get(); !slices.Equal(got, addrs("192.0.2.5", "192.0.2.7", "2001:db8::5")) {
		t.Errorf("addresses %v", got)
	}
	if got := everything.get(); !slices.Equal(got, addrs("192.0.2.5", "192.0.2.7", "198.51.100.1", "2001:db8::5")) {
		t.Errorf("addresses of all ranges %v", got)
	}

	m.add("192.0.2.6/24")
	m.become(a, "192.0.2.5", "192.0.2.6", "192.0.2.7", "2001:db8::5")
	m.add("2001:db8::4/128")
	m.become(a, "192.0.2.5", "192.0.2.6", "192.0.2.7", "2001:db8::4", "2001:db8::5")
	m.del("192.0.2.5/32", "2001:db8::5/64")
	m.become(a, "192.0.2.6", "192.0.2.7", "2001:db8::4")

	// Addresses that are not wanted change nothing.
	m.become(everything, "192.0.2.6", "192.0.2.7", "198.51.100.1", "2001:db8::4")
	m.add("203.0.113.1/24", "127.0.0.2/32", "fe80::6/64")
	m.become(everything, "192.0.2.6", "192.0.2.7", "198.51.100.1", "203.0.113.1", "2001:db8::4")
	m.add("192.0.2.8/24")
	m.become(a, "192.0.2.6", "192.0.2.7", "192.0.2.8", "2001:db8::4")
}

// TestInterfaceAddressesWanted: addresses that cannot be reached from outside the machine never serve node ports, whatever
// the ranges.
func TestInterfaceAddressesWanted(t *testing.T) {
	a := &interfaceAddresses{prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
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

// TestInterfaceAddressesOverrun: after the kernel has dropped events, the addresses are correct in the end.
func TestInterfaceAddressesOverrun(t *testing.T) {
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
		t.Error("the kernel dropped no event, the test is void")
	}
}

// TestInterfaceAddressesClose: close leaves no goroutine and no descriptor behind.
func TestInterfaceAddressesClose(t *testing.T) {
	m := newMachine(t)
	m.follow("::/0").close() // opens the descriptors that the runtime opens only once
	checkLeaks := noLeaks(t)
	for range 50 {
		a := m.follow("192.0.2.0/24")
		d, err := newDir(t.TempDir(), render.Node{}, nodePortAddresses{interfaces: a}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		result := make(chan error)
		go func() {
			_, err := d.Next(t.Context())
			result <- err
		}()
		runtime.Gosched()
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Next after Close: error %v, want %v", err, os.ErrClosed)
		}
		if err := errors.Join(a.close(), a.close()); err != nil {
			t.Fatal(err)
		}
	}
	checkLeaks()
}
