package watcher

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"nfproxy/leaktest"
	"nfproxy/logtest"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestMain runs the tests in a separate network namespace, and fails if they leave goroutines behind.
func TestMain(m *testing.M) { os.Exit(sandbox.Main(func() int { return leaktest.Run(m) })) }

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

func (m *machine) add(addrs ...string) {
	m.change(m.routing.AddrAdd, addrs)
	for _, text := range addrs {
		m.awaitLocal(text)
	}
}
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

// awaitLocal waits until the kernel delivers packets to an address. For IPv6 it adds the route from a work queue (addrconf_dad_start in
// net/ipv6/addrconf.c).
func (m *machine) awaitLocal(text string) {
	m.Helper()
	addr := netip.MustParsePrefix(text).Addr()
	local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		routes, err := m.routing.RouteListFiltered(netlink.FAMILY_ALL, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil {
			m.Fatal(err)
		}
		if len(routes) > 0 {
			return
		}
	}
	m.Fatalf("no local route to %s", addr)
}

// follow follows the addresses.
func (m *machine) follow() *interfaceAddresses {
	m.Helper()
	var a *interfaceAddresses
	err := m.space.Do(func() (err error) {
		a, err = followInterfaces(false, slog.New(slog.NewTextHandler(&m.log, nil)))
		return err
	})
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { a.close() })
	return a
}

// nodePorts serves node ports at the addresses inside the ranges.
func (m *machine) nodePorts(ranges ...string) nodePortAddresses {
	m.Helper()
	return nodePortAddresses{ranges: prefixes(ranges...), rangesOnly: true, interfaces: m.follow()}
}

func prefixes(texts ...string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefixes = append(prefixes, netip.MustParsePrefix(text))
	}
	return prefixes
}

func addrs(texts ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// become waits until the addresses of interfaces and all local addresses are the wanted ones.
func (m *machine) become(a *interfaceAddresses, ofInterfaces, all []netip.Addr) {
	m.Helper()
	for deadline := time.After(patience); !a.get().equal(localAddresses{ofInterfaces, all}); {
		select {
		case <-a.changed:
		case <-deadline:
			m.Fatalf("addresses %v and %v, want %v and %v", a.get().ofInterfaces, a.get().all, ofInterfaces, all)
		}
	}
}

// withoutGenerated omits the link-local addresses that the kernel gives to interfaces.
func withoutGenerated(addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() })
}

// TestInterfaceAddresses: the addresses are those of interfaces and those that packets are delivered to, link-local ones
// included and loopback ones not, and they follow changes.
func TestInterfaceAddresses(t *testing.T) {
	m := newMachine(t)
	m.add("192.0.2.5/32", "192.0.2.7/24", "2001:db8::5/64", "169.254.1.1/16", "fe80::5/64")
	a := m.follow()
	have := addrs("169.254.1.1", "192.0.2.5", "192.0.2.7", "2001:db8::5", "fe80::5")
	// The initial addresses are there without a change. 127.0.0.1 and ::1 of lo are not among them.
	if got := a.get(); !got.equal(localAddresses{have, have}) {
		t.Errorf("addresses %v", got)
	}

	m.add("192.0.2.6/24", "2001:db8::4/128")
	m.del("192.0.2.5/32", "2001:db8::5/64", "fe80::5/64")
	have = addrs("169.254.1.1", "192.0.2.6", "192.0.2.7", "2001:db8::4")
	m.become(a, have, have)
	m.add("127.0.0.2/32")
	m.add("192.0.2.8/24")
	have = addrs("169.254.1.1", "192.0.2.6", "192.0.2.7", "192.0.2.8", "2001:db8::4")
	m.become(a, have, have)
}

// TestInterfaceAddressesOfRoutes: host routes of type local make addresses local. Wider routes, routes of other types and those of
// other tables do not.
func TestInterfaceAddressesOfRoutes(t *testing.T) {
	m := newMachine(t)
	a := m.follow()
	m.add("192.0.2.7/24", "2001:db8::7/64")
	route := func(f func(*netlink.Route) error, kind, table int, dst string) {
		t.Helper()
		to, err := netlink.ParseIPNet(dst)
		m.must(err)
		r := &netlink.Route{Dst: to, Type: kind, Table: table}
		switch kind {
		case unix.RTN_LOCAL:
			r.LinkIndex, r.Scope = m.lo.Attrs().Index, netlink.SCOPE_HOST
		case unix.RTN_UNICAST, unix.RTN_ANYCAST:
			r.LinkIndex, r.Scope = m.lo.Attrs().Index, netlink.SCOPE_LINK
		}
		if err := f(r); err != nil {
			t.Fatalf("%s: %v", dst, err)
		}
	}
	for _, r := range []struct {
		kind, table int
		dst         string
	}{
		{unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, "203.0.113.0/24"},
		{unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, "2001:db8:cb::/64"},
		{unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, "127.0.0.9/32"},
		{unix.RTN_LOCAL, 100, "203.0.113.1/32"},
		{unix.RTN_LOCAL, 100, "2001:db8:cb::1/128"},
		{unix.RTN_ANYCAST, unix.RT_TABLE_LOCAL, "2001:db8:cb::2/128"},
		{unix.RTN_UNICAST, unix.RT_TABLE_LOCAL, "203.0.113.2/32"},
		{unix.RTN_BLACKHOLE, unix.RT_TABLE_LOCAL, "203.0.113.3/32"},
		{unix.RTN_BLACKHOLE, unix.RT_TABLE_LOCAL, "2001:db8:cb::3/128"},
		{unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, "203.0.113.8/32"},
		{unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, "2001:db8:cb::8/128"},
	} {
		route(m.routing.RouteAdd, r.kind, r.table, r.dst)
	}
	have := addrs("192.0.2.7", "2001:db8::7")
	m.become(a, have, addrs("192.0.2.7", "203.0.113.8", "2001:db8::7", "2001:db8:cb::8"))
	route(m.routing.RouteDel, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, "203.0.113.8/32")
	route(m.routing.RouteDel, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, "2001:db8:cb::8/128")
	m.become(a, have, have)

	// The kernel removes the routes of a deleted interface without a notification of routes.
	eth1 := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "eth1-peer"}
	m.must(m.routing.LinkAdd(eth1))
	m.must(m.routing.LinkSetIP6AddrGenMode(eth1, nl.IN6_ADDR_GEN_MODE_NONE)) // no notification of an address either
	m.must(m.routing.LinkSetUp(eth1))
	m.must(m.routing.RouteAdd(&netlink.Route{Dst: hostRoute("203.0.113.9"), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
		LinkIndex: eth1.Attrs().Index, Scope: netlink.SCOPE_HOST}))
	m.become(a, have, addrs("192.0.2.7", "203.0.113.9", "2001:db8::7"))
	m.must(m.routing.LinkDel(eth1))
	m.become(a, have, have)
}

// hostRoute returns the destination of a route to one IPv4 address.
func hostRoute(addr string) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(32, 32)}
}

// TestInterfaceAddressesQuiet: changes of routes that are not local do not wake the process.
func TestInterfaceAddressesQuiet(t *testing.T) {
	m := newMachine(t)
	var events *nl.NetlinkSocket
	m.must(m.space.Do(func() (err error) {
		events, err = subscribe()
		return err
	}))
	defer events.Close()
	for _, dst := range []string{"198.51.100.0/24", "203.0.113.7/32", "2001:db8:51::/64"} {
		to, err := netlink.ParseIPNet(dst)
		m.must(err)
		route := &netlink.Route{LinkIndex: m.lo.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}
		m.must(m.routing.RouteAdd(route))
		m.must(m.routing.RouteDel(route))
	}
	m.must(m.routing.RouteAdd(&netlink.Route{Dst: hostRoute("203.0.113.8"), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
		LinkIndex: m.lo.Attrs().Index, Scope: netlink.SCOPE_HOST}))
	received, _, err := events.Receive()
	if err != nil || len(received) != 1 || received[0].Header.Type != unix.RTM_NEWROUTE || received[0].Data[7] != unix.RTN_LOCAL {
		t.Errorf("received first %v, %v, want the route of type local", received, err)
	}
}

// TestInterfaceAddressesOverrun: after the kernel has dropped events, the addresses are correct in the end.
func TestInterfaceAddressesOverrun(t *testing.T) {
	m := newMachine(t)
	a := m.follow()
	if err := unix.SetsockoptInt(a.events.GetFd(), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	last := netip.MustParseAddr("10.0.0.0")
	var want []netip.Addr
	for range 500 {
		last = last.Next()
		want = append(want, last)
		m.add(last.String() + "/32")
	}
	m.become(a, want, want)
	m.add("10.1.0.1/32")
	want = append(want, netip.MustParseAddr("10.1.0.1"))
	m.become(a, want, want)
	if len(m.log.Lines("no buffer space")) == 0 {
		t.Error("the kernel dropped no event, the test is void")
	}
}

// TestInterfaceAddressesClose: close leaves no goroutine and no descriptor behind.
func TestInterfaceAddressesClose(t *testing.T) {
	m := newMachine(t)
	m.follow().close() // opens the descriptors that the runtime opens only once
	checkLeaks := noLeaks(t)
	for range 50 {
		a := m.follow()
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
