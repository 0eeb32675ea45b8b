package main

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
	c := newTestCluster(t)
	b := c.addBackends("web", 6)
	b.serve(b.addrs[:3]...)
	agent := c.startAgent()
	b.programmed(b.addrs[:3]...)
	client := c.addPod("default", "client", nil, "10.244.1.99")
	load := call(t, 8, client.Namespace, b.frontend)
	load.more(t, 50)

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range swaps {
		if i%(swaps/restarts) == 0 {
			agent.end([]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i/(swaps/restarts)%2])
			agent = c.startAgent()
		}
		random.Shuffle(len(b.addrs), func(i, j int) { b.addrs[i], b.addrs[j] = b.addrs[j], b.addrs[i] })
		b.serve(b.addrs[:1+random.IntN(4)]...)
		time.Sleep(time.Duration(random.IntN(5)) * time.Millisecond)
	}
	b.serve(b.addrs[:2]...)
	b.programmed(b.addrs[:2]...)
	load.more(t, 100)
	failed := load.stop()
	t.Logf("%d connections", load.total)
	if len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), load.total, strings.Join(failed[:min(5, len(failed))], "; "))
	}
}

// TestFlush: others flush the ruleset again and again. What is open goes on, what begins in the moment until it is repaired
// takes a second longer, when it sends its first packet again, and nothing fails.
func TestFlush(t *testing.T) {
	c := newTestCluster(t)
	b := c.addBackends("web", 3)
	b.serve(b.addrs...)
	c.startAgent()
	b.programmed(b.addrs...)
	client := c.addPod("default", "client", nil, "10.244.1.99")
	open, err := client.Dial(t.Context(), "tcp", "", b.frontend) // reads its greeting in the end
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	load := call(t, 4, client.Namespace, b.frontend) // these have patience
	for range 5 {
		start := time.Now()
		if out, err := command("nft", "flush", "ruleset"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		attempts := 0
		for {
			attempts++
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := greeting(ctx, client.Namespace, b.frontend)
			if cancel(); err == nil {
				break
			}
			if time.Since(start) > patience {
				t.Fatal("the Service does not come back")
			}
		}
		t.Logf("served again after %v, attempt %d", time.Since(start).Round(time.Millisecond), attempts)
		time.Sleep(3 * time.Second) // calm
	}
	load.more(t, 50)
	failed := load.stop()
	t.Logf("%d connections of %d failed", len(failed), load.total)
	if len(failed) > 0 {
		t.Errorf("%d connections of %d failed: %s", len(failed), load.total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	text := make([]byte, 20)
	if n, err := open.Read(text); err != nil || !slices.Contains(b.addrs, string(text[:n])) {
		t.Errorf("the open connection reads %q, %v", text[:n], err)
	}
}

// TestAPIServerAway: without an API server the rules stay and Services work, and what it says after a minute counts.
func TestAPIServerAway(t *testing.T) {
	c := newTestCluster(t)
	b := c.addBackends("web", 3)
	b.serve(b.addrs[:2]...)
	agent := c.startAgent()
	b.programmed(b.addrs[:2]...)
	client := c.addPod("default", "client", nil, "10.244.1.99")
	load := call(t, 2, client.Namespace, b.frontend)
	load.more(t, 20)

	c.StopAPIServer()
	away := time.Now()
	agent.says("connection")
	if out, err := command("nft", "flush", "chain", "ip", "nfproxy", "lb-2"); err != nil { // which nobody has to ask about
		t.Fatalf("%v\n%s", err, out)
	}
	agent.says("repaired")
	time.Sleep(time.Until(away.Add(time.Minute)))
	load.more(t, 20)
	c.StartAPIServer()
	b.serve(b.addrs[1:]...)
	b.programmed(b.addrs[1:]...)
	load.more(t, 20)
	if failed := load.stop(); len(failed) > 2 { // those of the moment without lb-2 find their way, but one of each caller
		t.Errorf("%d connections of %d failed: %s", len(failed), load.total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	agent.stop()
	b.programmed(b.addrs[1:]...)
}
