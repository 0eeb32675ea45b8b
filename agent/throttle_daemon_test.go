package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"nfproxy/logtest"
	"nfproxy/nft/kernel"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// newIdleDaemon returns a daemon that does not run yet, its connection to the kernel, and its log.
func newIdleDaemon(t *testing.T) (*daemon, *kernel.Conn, *logtest.Buffer) {
	t.Helper()
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	k.CounterKey = render.CounterKey
	log := new(logtest.Buffer)
	return newDaemon(nil, k, nil, render.Node{Name: "n"}, log.Logger(slog.LevelDebug)), k, log
}

// runUntil runs a daemon while a function works with it.
func runUntil(d *daemon, work func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = d.run(ctx) })
	work()
	cancel()
	running.Wait()
}

// TestFailuresBackOff: while programming fails, steady Updates do not lead to steady attempts: one is tried at once, and the others
// wait for the growing pauses.
func TestFailuresBackOff(t *testing.T) {
	d, k, log := newIdleDaemon(t)
	k.Close()
	failures := 0
	d.observers = []observer{{failed: func() { failures++ }}}
	const updates = 500
	runUntil(d, func() {
		for i := range updates {
			d.updates <- render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{testService(fmt.Sprint("s", i), "10.96.0.1:80")}}
			time.Sleep(time.Millisecond)
		}
	})
	t.Logf("%d attempts for %d Updates", failures, updates)
	if failures < 2 || failures > 15 { // at 0, 0 (the first Update), 0.1, 0.3, 0.7, 1.5 s and so on
		t.Errorf("%d attempts for %d Updates; the log:\n%s", failures, updates, log)
	}
}

// startDaemonWithOneRead starts a daemon that has used up its time for reading the tables when it has read them once.
func startDaemonWithOneRead(t *testing.T) *testDaemon {
	t.Helper()
	return startDaemonAfter(t, func(d *daemon) { d.throttle.reads = budget{share: 1e6} }, render.Instance{}.TableIDs()...)
}

// TestRefusedEdits: the kernel refuses the rules of a Service, and a client edits this Service all the time. The tables are not read
// for each edit. The other Services are programmed, and the Service keeps the rules that it had.
func TestRefusedEdits(t *testing.T) {
	d := startDaemonWithOneRead(t)
	allowed := refusedService("10.96.0.2:80", "10.0.0.2:80")
	allowed.Affinity = 0
	d.send(allowed)
	if c := d.await(); !c.full {
		t.Errorf("%+v is not the start", c)
	}
	const edits = 50
	for i := range edits {
		d.send(refusedService("10.96.0.2:80", fmt.Sprintf("10.0.1.%d:80", i)), testService(fmt.Sprint("s", i), fmt.Sprintf("10.96.1.%d:80", i)))
		if c := d.await(); c.full {
			t.Fatalf("edit %d: the tables were read", i)
		}
	}
	d.until(fmt.Sprintf("ns/s%d:p", edits-1), true)
	if text := d.text(); !strings.Contains(text, "10.0.0.2 . 80") || strings.Contains(text, "10.0.1.") {
		t.Errorf("it does not keep what it had:\n%s", text)
	}
	if !strings.Contains(d.log.String(), "the kernel refuses a Service") {
		t.Errorf("the log says\n%s", d.log)
	}
	allowed.Ports[0].Endpoints[0].AddrPort = netip.MustParseAddrPort("10.0.0.3:80")
	d.send(allowed)
	if c := d.await(); c.quarantined != 0 {
		t.Errorf("%d in quarantine", c.quarantined)
	}
}

// TestRefusedByDisturbedTables: when a change is refused because another program has changed the tables, no Service is quarantined,
// even if reading the tables has taken its share of time.
func TestRefusedByDisturbedTables(t *testing.T) {
	d := startDaemonAfter(t, func(d *daemon) { d.throttle.reads = budget{share: 1e6} }, otherTable("other")) // no notifications
	web := testService("web", "10.96.0.1:80", "10.0.0.1:80")
	d.send(web)
	d.await()
	removeTables(t, d.kernel)
	d.send(testService("more", "10.96.0.2:80", "10.0.0.2:80"))
	for deadline := time.Now().Add(patience); !strings.Contains(d.log.String(), "could not program the kernel"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log says\n%s", d.log)
		}
	}
	if strings.Contains(d.log.String(), "the kernel refuses a Service") {
		t.Errorf("a Service is quarantined:\n%s", d.log)
	}
}

// TestRefusedEditsLog: a Service whose rules the kernel refuses, and that is edited all the time, does not fill the log, and the
// tables need not be read for it.
func TestRefusedEditsLog(t *testing.T) {
	d := startDaemon(t)
	const edits = 100
	for i := range edits {
		d.send(refusedService("10.96.0.2:80", fmt.Sprintf("10.0.1.%d:80", i)), testService(fmt.Sprint("s", i), fmt.Sprintf("10.96.1.%d:80", i)))
		d.await()
	}
	refused, quarantined := len(d.log.Lines("a change was refused")), len(d.log.Lines("the kernel refuses a Service"))
	if refused > 0 || quarantined < 1 || quarantined > ratelimit.Burst {
		t.Errorf("%d and %d lines for %d edits", refused, quarantined, edits)
	}
}
