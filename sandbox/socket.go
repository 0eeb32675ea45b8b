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

// A socket belongs to the namespace of the thread that creates it, for good
// (network_namespaces(7)). Package net creates it on the calling goroutine for
// a literal address; seen in Go 1.26, net/dial.go: with one address
// dialParallel calls dialSerial directly, and both that and listen get to
// socket in net/sock_posix.go without a goroutine. A name, or an unspecified
// address to dial, may give several addresses and a race between goroutines,
// so neither is accepted.

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

// Dial opens a TCP or UDP connection from n to addr, both literal "ip:port".
// It comes from laddr ("ip:port", port 0 for any) or, if that is empty, from
// an address and port of the kernel's choice. It holds a thread until the
// connection is made or refused, or ctx ends.
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
