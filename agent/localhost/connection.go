package localhost

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// dialTimeout is how long an endpoint may take to accept a connection, as in kube-proxy 1.37.
const dialTimeout = 5 * time.Second

// connection is a connection of a client that is forwarded to an endpoint.
type connection struct {
	// abort ends ctx, and thereby resets the connection.
	ctx    context.Context
	abort  context.CancelFunc
	client *net.TCPConn
	dialer net.Dialer
}

// forward connects to the endpoint and copies in both directions until both sides have closed. What one side does, the other
// sees: the end of what it sends, or a reset. If the endpoint cannot be reached, the client is reset. A side that vanishes is
// found by TCP keepalive, which package net enables: after 150 seconds, or, if it left data unacknowledged, when the kernel
// gives up sending it again (tcp_retries2).
func (c *connection) forward(to netip.AddrPort) error {
	defer c.abort()
	keepClient := context.AfterFunc(c.ctx, func() { reset(c.client) })
	conn, err := c.dialer.DialContext(c.ctx, "tcp", to.String())
	if err != nil {
		if keepClient() {
			reset(c.client)
		}
		return err
	}
	endpoint := conn.(*net.TCPConn)
	keepEndpoint := context.AfterFunc(c.ctx, func() { reset(endpoint) })

	var both, ended sync.WaitGroup
	failures := make(chan error, 2)
	both.Add(2)
	for _, way := range []struct{ from, to *net.TCPConn }{{c.client, endpoint}, {endpoint, c.client}} {
		ended.Go(func() {
			err := copyAll(way.to, way.from)
			if err == nil {
				both.Done()
				awaitReset(way.from) // no copy reads from it any more
			} else {
				failures <- err
				defer both.Done()
			}
			c.abort()
		})
	}
	both.Wait()
	for conn, open := range map[*net.TCPConn]bool{c.client: keepClient(), endpoint: keepEndpoint()} {
		if open { // otherwise it is being reset
			_ = conn.Close() // all data is sent or queued
		}
	}
	ended.Wait()
	select {
	case err = <-failures:
	default:
	}
	return err
}

// copyAll copies until from sends no more, and then tells to.
func copyAll(to, from *net.TCPConn) error {
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.CloseWrite()
}

// awaitReset returns when a connection that sends no more is reset or closed.
func awaitReset(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // an error means that the connection is closed
		code, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		return code != 0 || err != nil
	})
}

// reset closes a connection so that its peer sees a failure and not the end of the data.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails only if it is closed
	_ = conn.Close()
}
