package localhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"nfproxy/render"
	"nfproxy/sandbox"
)

// connect returns both ends of a connection through a node port.
func connect(t *testing.T, b backend) (client, endpoint *net.TCPConn) {
	t.Helper()
	client, endpoint = dial(t, at4), <-b.accepted
	t.Cleanup(func() { endpoint.Close() })
	_ = endpoint.SetDeadline(time.Now().Add(patience))
	return client, endpoint
}

// TestConnectionCopies: bytes arrive in both directions, and each side learns when the other sends no more and can still answer.
func TestConnectionCopies(t *testing.T) {
	p, b := newPortsTest(t), newBackend(t, loopback4)
	p.set(service("web", b.AddrPort))
	request, response := bytes.Repeat([]byte("request "), 1<<17), bytes.Repeat([]byte("answer "), 1<<17)
	for _, clientFirst := range []bool{true, false} {
		client, endpoint := connect(t, b)
		from, to := client, endpoint
		if !clientFirst {
			from, to = endpoint, client
		}
		go func() {
			_, _ = from.Write(request)
			_ = from.CloseWrite()
		}()
		if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, request) {
			t.Errorf("%d bytes arrive, of %d: %v", len(got), len(request), err)
		}
		go func() {
			_, _ = to.Write(response)
			_ = to.CloseWrite()
		}()
		if got, err := io.ReadAll(from); err != nil || !bytes.Equal(got, response) {
			t.Errorf("%d bytes return, of %d: %v", len(got), len(response), err)
		}
	}
	within(t, "the connections have ended", func() bool { return p.limit.used.Load() == 0 })
}

// TestConnectionReset: a reset of one side resets the other one, so that cut data does not look complete.
func TestConnectionReset(t *testing.T) {
	p, b := newPortsTest(t), newBackend(t, loopback4)
	p.set(service("web", b.AddrPort))
	client, endpoint := connect(t, b)
	reset(endpoint)
	wantReset(t, client)
	client, endpoint = connect(t, b)
	reset(client)
	wantReset(t, endpoint)

	ended := func() bool { return p.limit.used.Load() == 0 }
	within(t, "the connections have ended", ended)

	client, endpoint = connect(t, b) // after one side has ended, nothing but the reset is left to see
	_ = client.CloseWrite()
	if _, err := endpoint.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	reset(client)
	within(t, "the connection has ended with the client", ended)
	client, endpoint = connect(t, b)
	_ = endpoint.CloseWrite()
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	reset(endpoint)
	within(t, "the connection has ended with the endpoint", ended)
}

// TestEndpointRefuses: if the endpoint refuses the connection, the client is reset.
func TestEndpointRefuses(t *testing.T) {
	p := newPortsTest(t)
	p.set(service("web", netip.MustParseAddrPort("127.0.0.1:1")))
	wantNotAdmitted(t, at4)
}

// wantNotAdmitted fails the test unless a new connection is reset, before or after it is established.
func wantNotAdmitted(t *testing.T, at netip.AddrPort) {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// TestConnectionsOutliveEndpoints: a connection stays open when its endpoint, and even the last one, leaves the Service, and is
// reset when the node port goes.
func TestConnectionsOutliveEndpoints(t *testing.T) {
	p, b := newPortsTest(t), newBackend(t, loopback4)
	p.set(service("web", b.AddrPort))
	client, endpoint := connect(t, b)
	p.set(service("web", newEcho(t, loopback4, "other")))
	wantReached(t, at4, "other")
	p.set(service("web"))
	wantRefused(t, at4)
	fmt.Fprint(endpoint, "still here")
	if n, err := io.ReadFull(client, make([]byte, 10)); err != nil {
		t.Errorf("read %d bytes: %v", n, err)
	}
	s := service("web")
	s.Ports[0].NodePort = 0
	p.set(s)
	wantReset(t, client)
	wantReset(t, endpoint)
}

// TestConnectionLimits: a port has at most maxPortConnections, and all ports have maxConnections. Further ones are reset, which
// is reported once; other ports and later connections are served.
func TestConnectionLimits(t *testing.T) {
	p, b := newPortsTest(t), newBackend(t, loopback4)
	p.limit.max = maxPortConnections + 1
	s := service("web", b.AddrPort)
	s.Ports = append(s.Ports, s.Ports[0])
	s.Ports[1].NodePort++
	p.set(s)
	open := func(at netip.AddrPort, n int) (conns []*net.TCPConn) {
		for range n {
			conns = append(conns, dial(t, at))
			<-b.accepted
		}
		return conns
	}
	second := netip.AddrPortFrom(loopback4, nodePort+1)
	conns := open(at4, maxPortConnections)
	wantNotAdmitted(t, at4)
	wantNotAdmitted(t, at4)
	open(second, 1)
	wantNotAdmitted(t, second)
	const message = `msg="too many connections to node ports at localhost; new ones are reset" service=ns1/web address=127.0.0.1:`
	if log := p.log.String(); strings.Count(log, message+"30080 ofPort=1024 ofAll=1024") != 1 ||
		strings.Count(log, message+"30081 ofPort=1 ofAll=1025") != 1 || strings.Count(log, "\n") != 2 {
		t.Errorf("logged:\n%s", log)
	}
	reset(conns[0])
	within(t, "a connection has ended", func() bool { return p.limit.used.Load() == maxPortConnections })
	open(at4, 1)
}

// TestAwaitReset: a side that sends no more is watched for a reset, and a half-closed connection is none.
func TestAwaitReset(t *testing.T) {
	client, server := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, server)
		awaitReset(server)
	}()
	_ = client.CloseWrite()
	select {
	case <-done:
		t.Fatal("a half-closed connection counts as reset")
	case <-time.After(300 * time.Millisecond):
	}
	reset(client)
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the reset is not seen")
	}
}

// TestEndpointVanishes: a connection whose endpoint vanishes without a word ends, and the client is reset.
func TestEndpointVanishes(t *testing.T) {
	node, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	network, err := sandbox.NewNetwork(node, netip.MustParseAddr("192.0.2.10"))
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	pod, err := network.AddPod("endpoint", netip.MustParseAddr("10.244.1.2"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := pod.Listen("tcp", "10.244.1.2:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := newPortsTest(t)
	s := service("web", netip.MustParseAddrPort("10.244.1.2:8080"))
	p.set()
	p.Take(render.Update{Node: render.Node{Name: "node-a", Loopback: []netip.Addr{loopback4}}, Services: []render.Service{s}})
	if p.updatePorts(); p.ports[at4] == nil {
		t.Fatal("no port")
	}
	if keepAlive := p.ports[at4].dialer.KeepAlive; keepAlive != 0 || p.ports[at4].dialer.KeepAliveConfig.Enable {
		t.Error("keepalive differs from the default of package net")
	}
	p.ports[at4].dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}
	p.listeners.Keep(p.wanted())
	client := dial(t, at4)
	endpoint, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer endpoint.Close()
	if source := endpoint.RemoteAddr().(*net.TCPAddr).IP.String(); source != "192.0.2.10" {
		t.Errorf("the endpoint sees the source %s", source)
	}
	if err := network.RemovePod(pod); err != nil {
		t.Fatal(err)
	}
	wantReset(t, client)
}

// TestClientKeepalive: the client's side has keepalive, too.
func TestClientKeepalive(t *testing.T) {
	p, b := newPortsTest(t), newBackend(t, loopback4)
	p.set(service("web", b.AddrPort))
	connect(t, b)
	one := p.ports[at4]
	one.mu.Lock()
	defer one.mu.Unlock()
	for c := range one.open {
		raw, err := c.client.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			if on, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); on != 1 || err != nil {
				t.Errorf("keepalive of the client: %d, %v", on, err)
			}
		})
	}
}

// TestAbortWhileDialing: a connection whose endpoint does not answer ends when the node port goes.
func TestAbortWhileDialing(t *testing.T) {
	client, server := pair(t)
	ctx, abort := context.WithCancel(context.Background())
	c := &connection{ctx: ctx, abort: abort, client: server, dialer: net.Dialer{Timeout: time.Minute}}
	time.AfterFunc(100*time.Millisecond, abort)
	begin := time.Now()
	err := c.forward(silentEndpoint(t))
	if took := time.Since(begin); err == nil || took > patience {
		t.Errorf("after %v: %v", took, err)
	}
	wantReset(t, client)
}

// pair returns both ends of a connection.
func pair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	b := newBackend(t, loopback4)
	client, server = dial(t, b.AddrPort), <-b.accepted
	t.Cleanup(func() { server.Close() })
	return client, server
}

// silentEndpoint returns an address whose listener has no room for connections, so that attempts to connect get no answer.
func silentEndpoint(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: loopback4.As4()}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(loopback4, uint16(name.(*syscall.SockaddrInet4).Port))
	for range 2 { // the kernel accepts one more than the backlog
		if conn, err := net.DialTimeout("tcp", at.String(), 300*time.Millisecond); err == nil {
			t.Cleanup(func() { conn.Close() })
		}
	}
	return at
}
