package cluster

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestChurn: no connection fails during a thousand changes of the endpoints and twenty restarts of nfproxy, every other one
// by SIGKILL at an arbitrary moment.
func TestChurn(t *testing.T) {
	const swaps, restarts = 1000, 20
	c := New(t)
	b := c.AddBackends("web", 6)
	b.Serve(b.Addrs[:3]...)
	agent := c.startAgent()
	b.AwaitEndpoints(b.Addrs[:3]...)
	client := c.AddPod("default", "client", nil, "10.244.1.99")
	clients := StartClients(t, 8, client.Namespace, b.Frontend)
	clients.AwaitMore(t, 50)

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range swaps {
		if i%(swaps/restarts) == 0 {
			agent.End([]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i/(swaps/restarts)%2])
			agent = c.startAgent()
		}
		random.Shuffle(len(b.Addrs), func(i, j int) { b.Addrs[i], b.Addrs[j] = b.Addrs[j], b.Addrs[i] })
		b.Serve(b.Addrs[:1+random.IntN(4)]...)
		time.Sleep(time.Duration(random.IntN(5)) * time.Millisecond)
	}
	b.Serve(b.Addrs[:2]...)
	b.AwaitEndpoints(b.Addrs[:2]...)
	clients.AwaitMore(t, 100)
	failed := clients.Stop()
	t.Logf("%d connections", clients.Total)
	if len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), clients.Total, strings.Join(failed[:min(5, len(failed))], "; "))
	}
}

// TestFlush: another program flushes the ruleset five times and no connection fails. Open connections continue; one that
// begins before the repair takes a second longer, because its first packet is retransmitted.
func TestFlush(t *testing.T) {
	c := New(t)
	b := c.AddBackends("web", 3)
	b.Serve(b.Addrs...)
	c.startAgent()
	b.AwaitEndpoints(b.Addrs...)
	client := c.AddPod("default", "client", nil, "10.244.1.99")
	open, err := client.Dial(t.Context(), "tcp", "", b.Frontend) // its greeting is read at the end
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	clients := StartClients(t, 4, client.Namespace, b.Frontend) // these wait for the retransmission
	for range 5 {
		start := time.Now()
		if out, err := CombinedOutput("nft", "flush", "ruleset"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		attempts := 0
		for {
			attempts++
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := ReadGreeting(ctx, client.Namespace, b.Frontend)
			if cancel(); err == nil {
				break
			}
			if time.Since(start) > 3*Timeout {
				t.Fatalf("the Service is not served again within %v", 3*Timeout)
			}
		}
		t.Logf("served again after %v, attempt %d", time.Since(start).Round(time.Millisecond), attempts)
		time.Sleep(3 * time.Second) // without changes
	}
	clients.AwaitMore(t, 50)
	failed := clients.Stop()
	t.Logf("%d connections", clients.Total)
	if len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), clients.Total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	text := make([]byte, 20)
	if n, err := open.Read(text); err != nil || !slices.Contains(b.Addrs, string(text[:n])) {
		t.Errorf("the open connection reads %q, %v", text[:n], err)
	}
}

// TestAPIServerAway: while the API server is unavailable for a minute, the rules stay, repairs work and Services are served;
// afterwards nfproxy follows changes again.
func TestAPIServerAway(t *testing.T) {
	c := New(t)
	b := c.AddBackends("web", 3)
	b.Serve(b.Addrs[:2]...)
	agent := c.startAgent()
	b.AwaitEndpoints(b.Addrs[:2]...)
	client := c.AddPod("default", "client", nil, "10.244.1.99")
	clients := StartClients(t, 2, client.Namespace, b.Frontend)
	clients.AwaitMore(t, 20)

	c.StopAPIServer()
	stopped := time.Now()
	agent.AwaitLog("connection")
	if out, err := CombinedOutput("nft", "flush", "chain", "ip", "nfproxy", "lb-2"); err != nil { // the repair needs no API server
		t.Fatalf("%v\n%s", err, out)
	}
	agent.AwaitLog("repaired")
	time.Sleep(time.Until(stopped.Add(time.Minute)))
	clients.AwaitMore(t, 20)
	c.StartAPIServer()
	b.Serve(b.Addrs[1:]...)
	b.AwaitEndpoints(b.Addrs[1:]...)
	clients.AwaitMore(t, 20)
	if failed := clients.Stop(); len(failed) > 2 { // without lb-2 each client may lose one connection
		t.Errorf("%d connections of %d failed: %s", len(failed), clients.Total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	agent.Stop()
	b.AwaitEndpoints(b.Addrs[1:]...)
}
