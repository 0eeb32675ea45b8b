package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestSCTPSockets: associations of the kernel's own SCTP sockets reach the endpoints of a Service by its cluster IP and by its
// node port, from a Pod and from the node, over IPv4 and IPv6, and data passes in both directions. After the removal of an
// endpoint a new association reaches the other one.
func TestSCTPSockets(t *testing.T) {
	requireSCTP(t)
	for name, f := range map[string]struct {
		clusterIP, node, client string
		endpoints               [2]string
	}{
		"ip":  {"10.96.0.1", "192.0.2.10", "10.244.9.9", [2]string{"10.244.1.2", "10.244.1.3"}},
		"ip6": {"fd00:10:96::1", "2001:db8::10", "fd00:10:244:9::9", [2]string{"fd00:10:244:1::2", "fd00:10:244:1::3"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newTestNode(t).addNetwork()
			var endpoints []string
			for i, addr := range f.endpoints {
				at := netip.AddrPortFrom(netip.MustParseAddr(addr), 9999)
				l.serveSCTP(l.pod(fmt.Sprint("server-", i), 0, addr), at)
				endpoints = append(endpoints, at.String())
			}
			client := l.pod("client", 0, f.client)
			at := netip.AddrPortFrom(netip.MustParseAddr(f.clusterIP), 38412)
			s := service("sctp", nft.SCTP, at.String(), endpoints...)
			s.Ports[0].NodePort = 30412
			l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{s}})
			l.reconcile()

			nodePort := netip.AddrPortFrom(netip.MustParseAddr(f.node), 30412)
			reached := make(map[string]bool)
			for _, from := range []*sandbox.Namespace{client.Namespace, l.node} {
				for _, to := range []netip.AddrPort{at, nodePort} {
					for range 10 {
						reached[associate(t, from, to)] = true
					}
				}
			}
			if len(reached) != 2 || !reached[endpoints[0]] || !reached[endpoints[1]] {
				t.Errorf("40 associations reached %v, want both of %v", reached, endpoints)
			}
			s.Ports = []render.Port{s.Ports[0]}
			s.Ports[0].Endpoints = s.Ports[0].Endpoints[1:]
			l.apply(render.Update{Services: []render.Service{s}})
			for range 5 {
				if got := associate(t, client.Namespace, at); got != endpoints[1] {
					t.Errorf("an association reached %s, want %s", got, endpoints[1])
				}
			}
		})
	}
}

// requireSCTP skips the test if the kernel has no SCTP sockets.
func requireSCTP(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("needs a kernel with SCTP sockets (CONFIG_IP_SCTP), for example Debian's 6.1; make test-kernels runs it there")
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

// socketSCTP opens a one-to-one SCTP socket (RFC 6458 section 4) in a namespace, whose calls end after connectTimeout.
func socketSCTP(ns *sandbox.Namespace, addr netip.Addr) (fd int, err error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	err = ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		return err
	})
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(connectTimeout.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

func sockaddr(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

// serveSCTP makes a pod answer each association with its own address and port and with what it received.
func (l *testNode) serveSCTP(p *sandbox.Pod, at netip.AddrPort) {
	l.t.Helper()
	fd, err := socketSCTP(p.Namespace, at.Addr())
	if err != nil {
		l.t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, sockaddr(at)), unix.Listen(fd, 16)); err != nil {
		l.t.Fatal(err)
	}
	stop, stopped := make(chan bool), make(chan bool)
	l.t.Cleanup(func() { close(stop); <-stopped; unix.Close(fd) })
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			pollable := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if n, _ := unix.Poll(pollable, 10); n != 1 { // milliseconds
				continue
			}
			conn, _, err := unix.Accept(fd)
			if err != nil {
				continue
			}
			b := make([]byte, 64)
			if n, err := unix.Read(conn, b); err == nil {
				unix.Write(conn, fmt.Appendf(nil, "%s %s", at, b[:n]))
			}
			unix.Close(conn)
		}
	}()
}

// associate opens an association, checks that a message passes in both directions, and returns the endpoint.
func associate(t *testing.T, from *sandbox.Namespace, to netip.AddrPort) (endpoint string) {
	t.Helper()
	fd, err := socketSCTP(from, to.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	const message = "hello"
	if _, err := unix.Write(fd, []byte(message)); err != nil {
		t.Fatalf("write to %s: %v", to, err)
	}
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	if err != nil {
		t.Fatalf("read from %s: %v", to, err)
	}
	endpoint, echo, _ := strings.Cut(string(b[:n]), " ")
	if echo != message {
		t.Errorf("%s answers %q, want %q", to, b[:n], message)
	}
	return endpoint
}
