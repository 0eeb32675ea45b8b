package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/agent/metrics"
	"nfproxy/logtest"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// testDaemon is a daemon that runs in the network namespace of the tests. The tests are its source.
type testDaemon struct {
	t        *testing.T
	updates  chan render.Update
	commits  chan commit
	compared chan metrics.ComparisonResult
	log      *logtest.Buffer
	kernel   *kernel.Conn // another connection than the daemon's
}

// patience is how long a test waits for an expected event.
const patience = 30 * time.Second

// startDaemon starts a daemon. It is stopped, and its tables are removed, when the test ends.
func startDaemon(t *testing.T) *testDaemon {
	t.Helper()
	return startDaemonAfter(t, func(*daemon) {}, render.Instance{}.TableIDs()...)
}

// openKernel opens a connection to the kernel's tables for the duration of a test.
func openKernel(t *testing.T) *kernel.Conn {
	t.Helper()
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// startDaemonAfter starts a daemon after a function has changed it, with a monitor of some tables.
func startDaemonAfter(t *testing.T, edit func(*daemon), monitored ...nft.TableID) *testDaemon {
	t.Helper()
	d := &testDaemon{t: t, updates: make(chan render.Update), commits: make(chan commit, 100),
		compared: make(chan metrics.ComparisonResult, 1000), log: &logtest.Buffer{}}
	k := openKernel(t)
	k.CounterKey = render.CounterKey
	d.kernel = openKernel(t)
	monitor, err := k.Monitor(monitored...)
	if err != nil {
		t.Fatal(err)
	}
	monitor.NameElements(render.Instance{}.RestorableSets()...)
	next := func(ctx context.Context) (render.Update, error) {
		select {
		case u := <-d.updates:
			return u, nil
		case <-ctx.Done():
			return render.Update{}, ctx.Err()
		}
	}
	var l lifecycle
	l.owns(monitor)
	run := newDaemon(next, k, monitor, render.Node{Name: "n"}, slog.New(slog.NewTextHandler(d.log, nil)))
	run.startTasks(&l)
	run.observers = []observer{newReports(run.log, nil, func(int, int, int) {}).observer(), {committed: func(c commit) {
		if len(c.changes) > 0 {
			d.commits <- c
		}
	}, compared: func(r metrics.ComparisonResult) { d.compared <- r }}}
	edit(run)
	runUntilCleanup(t, &l, d.kernel)
	return d
}

// runUntilCleanup runs a life cycle until the test ends, and then removes nfproxy's tables.
func runUntilCleanup(t *testing.T, l *lifecycle, k *kernel.Conn) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- l.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		removeTables(t, k)
	})
}

// removeTables removes our tables, for the next test.
func removeTables(t *testing.T, k *kernel.Conn) {
	t.Helper()
	tables, _, err := k.Read(render.Instance{}.TableIDs()...)
	if err == nil {
		err = k.Apply(nft.Diff(tables, nil), 0)
	}
	if err != nil {
		t.Error(err)
	}
}

// send hands Services to the daemon.
func (d *testDaemon) send(services ...render.Service) {
	d.t.Helper()
	d.updates <- render.Update{Node: render.Node{Name: "n"}, Services: services, Seen: time.Now()}
}

// await waits for a commit.
func (d *testDaemon) await() commit {
	d.t.Helper()
	select {
	case c := <-d.commits:
		return c
	case <-time.After(patience):
		d.t.Fatalf("no commit; the log:\n%s", d.log)
		return commit{}
	}
}

// until waits until the tables contain the text, or do not if want is false.
func (d *testDaemon) until(what string, want bool) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		text := d.text()
		if strings.Contains(text, what) == want {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%q in the tables: %t; they are\n%s\nthe log says\n%s", what, !want, text, d.log)
		}
	}
}

func (d *testDaemon) text() string {
	d.t.Helper()
	tables, _, err := d.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		d.t.Fatal(err)
	}
	var b strings.Builder
	for _, t := range tables {
		b.WriteString(t.String())
	}
	return b.String()
}

// testService returns a Service with one TCP port.
func testService(name, frontend string, endpoints ...string) render.Service {
	at := netip.MustParseAddrPort(frontend)
	s := render.Service{ServiceName: render.ServiceName{Namespace: "ns", Name: name}, ClusterIPs: []netip.Addr{at.Addr()},
		Ports: []render.Port{{Name: "p", Protocol: nft.TCP, Port: at.Port()}}}
	for _, e := range endpoints {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, render.Endpoint{AddrPort: netip.MustParseAddrPort(e), Ready: true})
	}
	return s
}

// refusedService returns a Service whose rules the kernel refuses: the name of its affinity map is too long
// (NFT_SET_MAXNAMELEN).
func refusedService(frontend string, endpoints ...string) render.Service {
	s := testService(strings.Repeat("long", 60), frontend, endpoints...)
	s.Affinity = time.Hour
	return s
}

// TestRefusedService: a Service whose rules the kernel refuses does not affect other Services, neither at the start nor later. It
// gets its rules once the kernel accepts them.
func TestRefusedService(t *testing.T) {
	d := startDaemon(t)
	d.send(testService("web", "10.96.0.1:80", "10.0.0.1:80"), refusedService("10.96.0.2:80", "10.0.0.2:80"))
	d.until("ns/web:p", true)
	if text := d.text(); strings.Contains(text, "10.96.0.2") {
		t.Errorf("the Service is there:\n%s", text)
	}
	if log := d.log.String(); !strings.Contains(log, "the kernel refuses a Service") || !strings.Contains(log, "service=ns/longlong") {
		t.Errorf("the log says\n%s", log)
	}
	d.send(testService("more", "10.96.0.3:80", "10.0.0.3:80"))
	d.until("ns/more:p", true)

	allowed := refusedService("10.96.0.2:80", "10.0.0.2:80")
	allowed.Affinity = 0
	d.send(allowed)
	d.until("10.96.0.2 . tcp . 80", true)

	d.send(refusedService("10.96.0.2:80", "10.0.0.9:80"), testService("last", "10.96.0.4:80"))
	d.until("ns/last:p", true)
	if text := d.text(); !strings.Contains(text, "10.0.0.2 . 80") || strings.Contains(text, "10.0.0.9 . 80") {
		t.Errorf("it does not keep what it had:\n%s", text)
	}
	d.updates <- render.Update{Node: render.Node{Name: "n"}, Removed: []render.ServiceName{allowed.ServiceName}}
	d.until("10.96.0.2", false)
}

// TestRefusedAtStart: a daemon that finds the rules of an earlier one keeps those of a Service whose new rules the kernel refuses.
func TestRefusedAtStart(t *testing.T) {
	d := startDaemon(t)
	before := refusedService("10.96.0.2:80", "10.0.0.2:80")
	before.Affinity = 0
	earlier := render.Tables(render.Update{Node: render.Node{Name: "n"},
		Services: []render.Service{before, testService("gone", "10.96.0.3:80", "10.0.0.3:80")}})
	if err := d.kernel.Apply(nft.Diff(nil, earlier), 0); err != nil {
		t.Fatal(err)
	}
	d.send(testService("web", "10.96.0.1:80", "10.0.0.1:80"), refusedService("10.96.0.2:80", "10.0.0.9:80"))
	d.until("ns/web:p", true)
	if text := d.text(); !strings.Contains(text, "10.0.0.2 . 80") || strings.Contains(text, "10.0.0.9 . 80") || strings.Contains(text, "ns/gone") {
		t.Errorf("it does not keep what the kernel had:\n%s", text)
	}
	if log := d.log.String(); !strings.Contains(log, "the kernel refuses a Service") {
		t.Errorf("the log says\n%s", log)
	}
}

// TestRefusedAgain: a quarantined Service is tried again with growing delays, and other Services are not affected.
func TestRefusedAgain(t *testing.T) {
	d := startDaemon(t)
	d.send(testService("web", "10.96.0.1:80", "10.0.0.1:80"), refusedService("10.96.0.2:80", "10.0.0.2:80"))
	for deadline := time.Now().Add(patience); strings.Count(d.log.String(), "the kernel refuses a Service") < 3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is not tried again; the log says\n%s", d.log)
		}
	}
	for _, delay := range []string{"retry=1s", "retry=2s", "retry=4s"} {
		if !strings.Contains(d.log.String(), delay) {
			t.Errorf("no %s in\n%s", delay, d.log)
		}
	}
	d.until("ns/web:p", true)
}

// TestForgetsInBulk: the daemon goes on to forget the clients of a removed endpoint until none is left, and programs other Services
// meanwhile.
func TestForgetsInBulk(t *testing.T) {
	d := startDaemon(t)
	sticky := testService("sticky", "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80")
	sticky.Affinity = time.Hour
	d.send(sticky)
	d.await()
	tables, _, err := d.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		t.Fatal(err)
	}
	clients := make([]nft.Element, render.DefaultAffinityClients)
	for i := range clients {
		clients[i] = nft.Element{Key: nft.Addr(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})),
			Data: nft.Addr(netip.MustParseAddr("10.0.0.1")) + nft.Port(80)}
	}
	m := tables[0].Set("affinity/ns/sticky/tcp/p")
	if err := d.kernel.Apply([]nft.Change{{Op: nft.Add, Object: nft.Elements{Set: m, List: clients}}}, 0); err != nil {
		t.Fatal(err)
	}
	sticky.Ports[0].Endpoints = sticky.Ports[0].Endpoints[1:]
	d.send(sticky)
	d.send(testService("web", "10.96.0.2:80", "10.0.0.3:80"))
	d.until("ns/web:p", true)
	d.until("10.0.0.1 . 80", false)
}

// TestRepairs: external changes are repaired for as long as they go on, but with pauses.
func TestRepairs(t *testing.T) {
	d := startDaemon(t)
	d.send(testService("web", "10.96.0.1:80", "10.0.0.1:80"))
	d.await()
	deletions := 0
	begin := time.Now()
	for time.Since(begin) < 3*time.Second || deletions < 4 && time.Since(begin) < patience {
		tables, generation, err := d.kernel.Read(render.Instance{}.TableIDs()...)
		if err != nil {
			t.Fatal(err)
		}
		if len(tables) == 0 {
			continue
		}
		switch err := d.kernel.Apply(nft.Diff(tables, nil), generation); {
		case err == nil:
			deletions++
		case !errors.Is(err, kernel.ErrStale):
			t.Fatal(err)
		}
	}
	d.until("ns/web:p", true)
	repairs, most := len(d.commits), int(40*time.Since(begin)/(3*time.Second))
	t.Logf("%d deletions, %d repairs", deletions, repairs)
	if repairs < 3 || repairs > most { // without a pause there are hundreds
		t.Errorf("%d repairs", repairs)
	}
}

// TestCommitTimes: a commit carries the time at which its first Update was seen, and the times of the causes.
func TestCommitTimes(t *testing.T) {
	d := startDaemon(t)
	seen, cause := time.Now().Add(-time.Second), time.Now().Add(-time.Minute)
	d.updates <- render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{testService("web", "10.96.0.1:80")},
		Seen: seen, Triggered: []time.Time{cause}}
	if c := d.await(); !c.seen.Equal(seen) || len(c.triggered) != 1 || !c.triggered[0].Equal(cause) {
		t.Errorf("%+v", c)
	}
}

// TestTriggeredIsBounded: while programming fails, the daemon keeps the times of a bounded number of causes, the oldest.
func TestTriggeredIsBounded(t *testing.T) {
	d := newDaemon(nil, nil, nil, render.Node{}, slog.New(slog.DiscardHandler))
	first := time.Now()
	for i := range 3 * maxTriggered / 2 {
		d.take(render.Update{Triggered: []time.Time{first.Add(time.Duration(i)), first.Add(time.Duration(i))}})
	}
	if kept := d.pending.triggered; len(kept) != maxTriggered || !kept[0].Equal(first) {
		t.Errorf("%d times are kept, the first is %s, not %s", len(kept), kept[0], first)
	}
}

// TestSlowStartIsForTheKernel: while the weight of a new endpoint grows in the kernel, observers have the weights that the Service asks
// for: they are not told of each step, and would keep the weights of the first.
func TestSlowStartIsForTheKernel(t *testing.T) {
	weights := make(chan uint16, 100)
	d := startDaemonAfter(t, func(d *daemon) {
		d.observers = append(d.observers, observer{updated: func(u render.Update) {
			for _, e := range u.Services[0].Ports[0].Endpoints {
				weights <- e.Weight
			}
		}})
	}, render.Instance{}.TableIDs()...)
	slow := func(endpoints ...string) render.Service {
		s := testService("slow", "10.96.0.1:80", endpoints...)
		s.SlowStart = time.Hour
		return s
	}
	d.send(slow("10.0.0.1:80"))
	d.until("10.0.0.1 . 80", true)
	d.send(slow("10.0.0.1:80", "10.0.0.2:80"))
	d.until("10.96.0.1 . tcp . 80 . 10", true) // eleven slots
	for i := range 3 {
		if w := <-weights; w > 1 {
			t.Errorf("endpoint %d has weight %d", i, w)
		}
	}
}
