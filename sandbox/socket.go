//go:build linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// A socket always belongs to the namespace of the thread that created it
// (network_namespaces(7)). For a literal address package net creates the socket
// on the calling goroutine: in Go 1.26, net/dial.go, dialParallel calls
// dialSerial directly if there is one address, and both dialSerial and listen
// reach socket in net/sock_posix.go without another goroutine. A name, or an
// unspecified address to dial, can yield several addresses and a race between
// goroutines, so Listen and Dial reject both.

// Listen is net.Listen with the socket in n. The address must be literal, or
// empty for all addresses of n.
func (n *Namespace) Listen(network, addr string) (net.Listener, error) {
	if err := checkListen(addr); err != nil {
		return nil, fmt.Errorf("listen %s %s: %w", network, addr, err)
	}
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = net.Listen(network, addr)
		return err
	})
	return listener, err
}

// ListenPacket is net.ListenPacket with the socket in n. The address must be
// literal, or empty for all addresses of n.
func (n *Namespace) ListenPacket(network, addr string) (net.PacketConn, error) {
	if err := checkListen(addr); err != nil {
		return nil, fmt.Errorf("listen %s %s: %w", network, addr, err)
	}
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, addr)
		return err
	})
	return conn, err
}

// Dial opens a TCP or UDP connection from n to addr, a literal "ip:port". The
// local address is laddr ("ip:port", port 0 for any) or, if laddr is empty, one
// that the kernel chooses. Dial occupies a thread until the connection is
// established or refused, or ctx ends.
func (n *Namespace) Dial(ctx context.Context, network, laddr, addr string) (net.Conn, error) {
	dialer, err := newDialer(network, laddr, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, addr, err)
	}
	var conn net.Conn
	err = n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

func checkListen(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return err
	}
	_, err = netip.ParseAddr(host)
	return err
}

func newDialer(network, laddr, addr string) (*net.Dialer, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if to.Addr().IsUnspecified() {
		return nil, errors.New("unspecified address")
	}
	if laddr == "" {
		return &net.Dialer{}, nil
	}
	from, err := netip.ParseAddrPort(laddr)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(network, "udp") {
		return &net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(from)}, nil
	}
	return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from)}, nil
}
