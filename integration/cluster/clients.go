package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"nfproxy/sandbox"
)

// ServeGreeting makes a pod send a greeting to every TCP client at an address and close the connection.
func ServeGreeting(t testing.TB, pod *sandbox.Pod, at, greeting string) {
	t.Helper()
	ServeTCP(t, pod.Namespace, at, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(Timeout))
		_, _ = io.WriteString(conn, greeting) // fails if the client has gone
	})
}

// ServeTCP accepts TCP connections in a namespace at an address and calls each for every one; a connection ends when each returns.
func ServeTCP(t testing.TB, ns *sandbox.Namespace, at string, each func(net.Conn)) {
	t.Helper()
	listener, err := ns.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				each(conn)
			}()
		}
	}()
}

// ServeUDPEcho makes a pod send every datagram that it gets at an address back.
func ServeUDPEcho(t testing.TB, pod *sandbox.Pod, at string) {
	t.Helper()
	conn, err := pod.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		datagram := make([]byte, 100)
		for {
			n, from, err := conn.ReadFrom(datagram)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(datagram[:n], from)
		}
	}()
}

// ReadGreeting connects to an address from a namespace and returns what the server sends.
func ReadGreeting(ctx context.Context, from *sandbox.Namespace, to string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", "", to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(Timeout))
	text, err := io.ReadAll(conn)
	return string(text), err
}

// Clients connect to a Service continuously and count the connections that succeed and fail.
type Clients struct {
	cancel   context.CancelFunc
	running  sync.WaitGroup
	mu       sync.Mutex
	Total    int            // connections so far; read it only after Stop
	answers  map[string]int // connections by the answer
	failures []string
}

// StartClients starts n clients in a namespace that connect to a server of ServeGreeting.
func StartClients(t testing.TB, n int, from *sandbox.Namespace, to string) *Clients {
	return StartClientsFunc(t, n, func(ctx context.Context) (string, error) { return ReadGreeting(ctx, from, to) })
}

// StartClientsFunc starts n clients that call connect, each at most a hundred times a second, until Stop or the end of the
// test.
func StartClientsFunc(t testing.TB, n int, connect func(context.Context) (answer string, err error)) *Clients {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Clients{cancel: cancel, answers: make(map[string]int)}
	t.Cleanup(func() { c.Stop() })
	for range n {
		c.running.Go(func() {
			for ctx.Err() == nil {
				answer, err := connect(ctx)
				if ctx.Err() == nil {
					c.record(answer, err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	return c
}

func (c *Clients) record(answer string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Total++
	if err != nil || answer == "" {
		c.failures = append(c.failures, fmt.Sprintf("%s: %v", time.Now().Format(time.StampMilli), err))
		return
	}
	c.answers[answer]++
}

// count returns the number of connections so far and how many of them failed.
func (c *Clients) count() (total, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Total, len(c.failures)
}

// AwaitMore waits for n more connections.
func (c *Clients) AwaitMore(t testing.TB, n int) {
	t.Helper()
	before, _ := c.count()
	EventuallyTrue(t, fmt.Sprintf("%d more connections are made", n), func() (bool, string) {
		now, failed := c.count()
		return now >= before+n, fmt.Sprintf("%d more connections; %d failed in total", now-before, failed)
	})
}

// Stop ends the clients and returns a line for each connection that failed.
func (c *Clients) Stop() []string {
	c.cancel()
	c.running.Wait()
	return c.failures
}
