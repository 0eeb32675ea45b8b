//go:build linux

package sandbox_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/sandbox"
)

// ask sends a line from one namespace to an address in another and returns the
// source that the server saw. It fails if a packet is lost: TCP sends its first
// packet again after a second, UDP does not.
func ask(from, to *sandbox.Namespace, network, laddr string, addr netip.Addr) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	before, err := retransmittedSYNs(from)
	if err != nil {
		return netip.AddrPort{}, err
	}
	at, stop, err := answer(to, network, netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer stop()
	conn, err := from.Dial(ctx, network, laddr, at)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte("who am I?")); err != nil {
		return netip.AddrPort{}, err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if after, err := retransmittedSYNs(from); err != nil || after != before {
		return netip.AddrPort{}, fmt.Errorf("first packets of TCP sent again: %s before, %s after: %w", before, after, err)
	}
	seen, err := netip.ParseAddrPort(string(buf[:n]))
	if err == nil && seen.String() != conn.LocalAddr().String() {
		err = fmt.Errorf("%s %s: sent from %v, arrived from %v", network, addr, conn.LocalAddr(), seen)
	}
	return seen, err
}

// retransmittedSYNs returns how many first packets TCP in a namespace has sent
// again.
func retransmittedSYNs(n *sandbox.Namespace) (string, error) {
	var text []byte
	err := n.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	})
	names, rest, _ := strings.Cut(string(text), "\n")
	values, _, _ := strings.Cut(rest, "\n")
	i := slices.Index(strings.Fields(names), "TCPSynRetrans")
	if err != nil || i < 0 {
		return "", fmt.Errorf("no TCPSynRetrans: %w", err)
	}
	return strings.Fields(values)[i], nil
}

// answer starts a server at addr that answers one client with its address.
func answer(n *sandbox.Namespace, network, addr string) (at string, stop func() error, err error) {
	if strings.HasPrefix(network, "udp") {
		conn, err := n.ListenPacket(network, addr)
		if err != nil {
			return "", nil, err
		}
		go func() {
			if _, from, err := conn.ReadFrom(make([]byte, 100)); err == nil {
				conn.WriteTo([]byte(from.String()), from)
			}
		}()
		return conn.LocalAddr().String(), conn.Close, nil
	}
	listener, err := n.Listen(network, addr)
	if err != nil {
		return "", nil, err
	}
	go func() {
		if conn, err := listener.Accept(); err == nil {
			defer conn.Close()
			conn.Read(make([]byte, 100))
			io.WriteString(conn, conn.RemoteAddr().String())
		}
	}()
	return listener.Addr().String(), listener.Close, nil
}

// mustAsk fails the test unless the server sees the client's address want.
func mustAsk(t *testing.T, from, to *sandbox.Namespace, network, laddr string, addr, want netip.Addr) {
	t.Helper()
	seen, err := ask(from, to, network, laddr, addr)
	if err != nil {
		t.Fatalf("%s to %s: %v", network, addr, err)
	}
	if seen.Addr() != want {
		t.Errorf("%s to %s: seen as %s, want %s", network, addr, seen.Addr(), want)
	}
}
