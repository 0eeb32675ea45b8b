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

// TestChurn: nobody who connects all the time ever notices: a thousand swaps of endpoints, twenty restarts, every other
// one by SIGKILL at any moment.
func TestChurn(t *testing.T) {
	const swaps, restarts = 1000, 20
	c := New(t)
	b := c.AddBackends("web", 6)
	b.Serve(b.Addrs[:3]...)
	agent := c.startAgent()
	b.AwaitEndpoints(b.Addrs[:3]...)
	client := c.AddPod("default", "client", nil, "10.244.1.99")
	load := StartClients(t, 8, client.Namespace, b.Frontend)
	load.AwaitMore(t, 50)

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
	load.AwaitMore(t, 100)
	failed := load.Stop()
	t.Logf("%d connections", load.Total)
	if len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), load.Total, strings.Join(failed[:min(5, len(failed))], "; "))
	}
}

// TestFlush: others flush the ruleset again and again. What is open goes on, what begins in the moment until it is repaired
// takes a second longer, when it sends its first packet again, and nothing fails.
func TestFlush(t *testing.T) {
	c := New(t)
	b := c.AddBackends("web", 3)
	b.Serve(b.Addrs...)
	c.startAgent()
	b.AwaitEndpoints(b.Addrs...)
	client := c.AddPod("default", "client", nil, "10.244.1.99")
	open, err := client.Dial(t.Context(), "tcp", "", b.Frontend) // reads its greeting in the end
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	load := StartClients(t, 4, client.Namespace, b.Frontend) // these have patience
	for range 5 {
		start := time.Now()
		if out, err := CombinedOutput("nft", "flush", "ruleset"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		attempts := 0
		for {
			attempts++
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := ReadGreeting(ctx, client.Namespace, b.Frontend)
			if cancel(); err == nil {
				break
			}
			if time.Since(start) > Timeout {
				t.Fatal("the Service does not come back")
			}
		}
		t.Logf("served again after %v, attempt %d", time.Since(start).Round(time.Millisecond), attempts)
		time.Sleep(3 * time.Second) // calm
	}
	load.AwaitMore(t, 50)
	failed := load.Stop()
	t.Logf("%d connections of %d failed", len(failed), load.Total)
	if len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), load.Total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	text := make([]byte, 20)
	if n, err := open.Read(text); err != nil || !slices.Contains(b.Addrs, string(text[:n])) {
		t.Errorf("the open connection reads %q, %v", text[:n], err)
	}
}

// TestAPIServerAway: without an API server the rules stay and Services work, and what it says after a minute counts.
func TestAPIServerAway(t *testing.T) {
	c := New(t)
	b := c.AddBackends("web", 3)
	b.Serve(b.Addrs[:2]...)
	agent := c.startAgent()
	b.AwaitEndpoints(b.Addrs[:2]...)
	client := c.AddPod("default", "client", nil, "10.244.1.99")
	load := StartClients(t, 2, client.Namespace, b.Frontend)
	load.AwaitMore(t, 20)

	c.StopAPIServer()
	away := time.Now()
	agent.AwaitLog("connection")
	if out, err := CombinedOutput("nft", "flush", "chain", "ip", "nfproxy", "lb-2"); err != nil { // which nobody has to ask about
		t.Fatalf("%v\n%s", err, out)
	}
	agent.AwaitLog("repaired")
	time.Sleep(time.Until(away.Add(time.Minute)))
	load.AwaitMore(t, 20)
	c.StartAPIServer()
	b.Serve(b.Addrs[1:]...)
	b.AwaitEndpoints(b.Addrs[1:]...)
	load.AwaitMore(t, 20)
	if failed := load.Stop(); len(failed) > 2 { // those of the moment without lb-2 find their way, but one of each caller
		t.Errorf("%d connections of %d failed: %s", len(failed), load.Total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	agent.Stop()
	b.AwaitEndpoints(b.Addrs[1:]...)
}
