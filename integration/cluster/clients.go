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

// greet lets a pod greet whoever connects.
func ServeGreeting(t testing.TB, pod *sandbox.Pod, at, greeting string) {
	t.Helper()
	ServeTCP(t, pod, at, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(Timeout))
		_, _ = io.WriteString(conn, greeting) // who has gone needs none
	})
}

// accept lets a pod take TCP connections, which end when each returns.
func ServeTCP(t testing.TB, pod *sandbox.Pod, at string, each func(net.Conn)) {
	t.Helper()
	listener, err := pod.Listen("tcp", at)
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

// greeting connects and returns what it is told.
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

// callers connect to a Service from a pod, all the time, and count.
type Clients struct {
	cancel   context.CancelFunc
	running  sync.WaitGroup
	mu       sync.Mutex
	Total    int
	answers  map[string]int
	failures []string
}

// call starts n callers that are greeted.
func StartClients(t testing.TB, n int, from *sandbox.Namespace, to string) *Clients {
	return StartClientsFunc(t, n, func(ctx context.Context) (string, error) { return ReadGreeting(ctx, from, to) })
}

// callBy starts n callers. Each makes at most a hundred connections a second.
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

// count returns how many connections there were, and forgets who answered so far.
func (c *Clients) count() (total, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Total, len(c.failures)
}

// more waits for as many connections more.
func (c *Clients) AwaitMore(t testing.TB, n int) {
	t.Helper()
	before, _ := c.count()
	EventuallyTrue(t, fmt.Sprintf("%d more connections", n), func() (bool, string) {
		now, failed := c.count()
		return now >= before+n, fmt.Sprintf("%d more, %d failed in all", now-before, failed)
	})
}

// stop ends the callers and returns what failed.
func (c *Clients) Stop() []string {
	c.cancel()
	c.running.Wait()
	return c.failures
}
