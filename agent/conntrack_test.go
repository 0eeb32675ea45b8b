package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nfproxy/agent/metrics"
	"nfproxy/logtest"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/sandbox"

	"nfproxy/conntrack/ctnetlink"
)

// cleanerTest is a node with tables and a conntrack cleaner that runs beside them, as in the daemon.
type cleanerTest struct {
	t       *testing.T
	node    *sandbox.Namespace
	network *sandbox.Network
	kernel  *kernel.Conn
	flows   *ctnetlink.Conn
	ruleset *render.Ruleset
	cleaner *conntrackCleaner
	// stop ends the cleaner and waits until it has ended.
	stop  func()
	facts render.Node
	log   logtest.Buffer

	mu       sync.Mutex
	deleted  map[nft.Family]int
	cleanups int
}

func newCleanerTest(t *testing.T, configure ...func(*conntrackCleaner)) *cleanerTest {
	t.Helper()
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}
	s := &cleanerTest{t: t, facts: render.Node{Name: "node-a", Addresses: addrs,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}, deleted: make(map[nft.Family]int)}
	s.ruleset = render.NewRuleset(s.facts)
	var err error
	if s.node, err = sandbox.NewNamespace(); err != nil {
		t.Fatal(err)
	}
	if s.network, err = sandbox.NewNetwork(s.node, addrs...); err != nil {
		t.Fatal(err)
	}
	err = s.node.Do(func() (err error) {
		if s.kernel, err = kernel.Open(); err == nil {
			s.flows, err = ctnetlink.Open()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.cleaner = newConntrackCleaner(s.flows, log, s.observe)
	for _, f := range configure {
		f(s.cleaner)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.cleaner.run(ctx) })
	s.stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(func() {
		s.stop()
		s.flows.Close()
		s.kernel.Close()
		s.network.Close()
		s.node.Close()
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	return s
}

func (s *cleanerTest) observe(f nft.Family, deleted int, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleted[f] += deleted
	s.cleanups++
}

// seen returns the number of deleted entries and of cleanups, each for one family.
func (s *cleanerTest) seen() (deleted, cleanups int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deleted[nft.IPv4] + s.deleted[nft.IPv6], s.cleanups
}

// round programs Services as the daemon does.
func (s *cleanerTest) round(services ...render.Service) {
	s.t.Helper()
	u := render.Update{Node: s.facts, Services: services}
	s.ruleset.Update(u)
	s.cleaner.Take(u, s.ruleset.Owner)
	have, generation, err := s.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ruleset.Observe(have)
	changes := s.ruleset.Plan()
	if err := s.kernel.Apply(changes, generation); err != nil {
		s.t.Fatal(err)
	}
	s.ruleset.Accept()
	s.cleaner.Programmed(changes)
}

// dnsService returns a Service with one UDP port and endpoints at port 5353.
func dnsService(endpoints ...string) render.Service {
	p := render.Port{Name: "dns", Protocol: nft.UDP, Port: 53}
	for _, e := range endpoints {
		p.Endpoints = append(p.Endpoints, render.Endpoint{AddrPort: netip.AddrPortFrom(netip.MustParseAddr(e), 5353),
			Node: "node-a", Ready: true, Serving: true})
	}
	return render.Service{ServiceName: render.ServiceName{Namespace: "test", Name: "dns"},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Ports: []render.Port{p}}
}

// answerer adds a Pod that answers each UDP packet with its own address and the packet's text.
func (s *cleanerTest) answerer(addr string) {
	s.t.Helper()
	pod, err := s.network.AddPod(addr, netip.MustParseAddr(addr))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := pod.ListenPacket("udp", netip.AddrPortFrom(netip.MustParseAddr(addr), 5353).String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 30)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(append([]byte(addr+" to "), b[:n]...), from)
		}
	}()
}

// asker returns the socket of a client that never changes its port.
func (s *cleanerTest) asker() net.PacketConn {
	s.t.Helper()
	pod, err := s.network.AddPod("client", netip.MustParseAddr("10.244.9.9"))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := pod.ListenPacket("udp", "10.244.9.9:40000")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a packet every ten milliseconds until the wanted endpoint answers, and returns how long that took.
func (s *cleanerTest) ask(c net.PacketConn, want string) time.Duration {
	s.t.Helper()
	start := time.Now()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.96.0.10:53"))
	question := strconv.FormatInt(start.UnixNano(), 10) // answers to earlier ones may still be on their way
	b := make([]byte, 100)
	for time.Since(start) < patience {
		c.WriteTo([]byte(question), to)
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if n, _, err := c.ReadFrom(b); err == nil && string(b[:n]) == want+" to "+question {
			return time.Since(start)
		}
	}
	s.t.Errorf("%s did not answer within %s", want, patience)
	return 0
}

// TestCleaner: a client that keeps its port and never pauses reaches the new endpoint after each of ten changes in a row.
func TestCleaner(t *testing.T) {
	s := newCleanerTest(t)
	endpoints := []string{"10.244.1.2", "10.244.1.3"}
	for _, e := range endpoints {
		s.answerer(e)
	}
	client := s.asker()
	s.round(dnsService(endpoints[0]))
	s.ask(client, endpoints[0])
	var took []time.Duration
	const changes = 10
	for i := range changes {
		to := endpoints[(i+1)%2]
		s.round(dnsService(to))
		took = append(took, s.ask(client, to))
	}
	t.Logf("from the commit to an answer: median %v, worst %v", slices.Sorted(slices.Values(took))[changes/2], slices.Max(took))
	s.eventually("an entry deleted per change", func() bool { deleted, _ := s.seen(); return deleted >= changes })
}

// TestCleanerRests: continuous changes lead to few cleanups, and a change of a TCP Service to none.
func TestCleanerRests(t *testing.T) {
	s := newCleanerTest(t)
	s.round(dnsService("10.244.1.2"))
	s.eventually("the first sweep", func() bool { _, cleanups := s.seen(); return cleanups > 0 })
	_, before := s.seen()
	tcp := dnsService("10.244.1.2")
	tcp.Name, tcp.Ports[0].Protocol = "tcp", nft.TCP
	s.round(tcp)
	const changes = 200
	for i := range changes {
		s.round(dnsService("10.244.1.2", []string{"10.244.1.3", "10.244.1.4"}[i%2]))
	}
	s.eventually("a cleanup after the changes", func() bool { _, cleanups := s.seen(); return cleanups > before })
	s.stop()
	if _, cleanups := s.seen(); cleanups-before > changes/2 {
		t.Errorf("%d cleanups for %d changes", cleanups-before, changes)
	}
}

// TestCleanerRetries: a list that fails is tried again later, and the end does not wait for it.
func TestCleanerRetries(t *testing.T) {
	s := newCleanerTest(t)
	s.flows.Close()
	s.round(dnsService("10.244.1.2"))
	s.eventually("two errors", func() bool { return strings.Count(s.log.String(), "could not delete") >= 2 })
	start := time.Now()
	s.stop()
	if took := time.Since(start); took > patience {
		t.Errorf("the end took %v", took)
	}
}

// TestCleanerBacksOff: while connection tracking cannot be read, steady changes do not lead to steady attempts.
func TestCleanerBacksOff(t *testing.T) {
	s := newCleanerTest(t)
	s.flows.Close()
	const changes = 500
	for i := range changes {
		s.cleaner.Take(render.Update{Node: s.facts, Services: []render.Service{dnsService(fmt.Sprintf("10.244.1.%d", i%200+1))}},
			func(render.Frontend) render.ServiceName { return render.ServiceName{Namespace: "test", Name: "dns"} })
		s.cleaner.Programmed(nil)
		time.Sleep(time.Millisecond)
	}
	s.stop()
	n := strings.Count(s.log.String(), "could not delete")
	t.Logf("%d attempts for %d changes", n, changes)
	if n < 1 || n > 10 { // at 0, 0.1, 0.3, 0.7 s and so on
		t.Errorf("%d attempts for %d changes", n, changes)
	}
}

// TestCleanerPace: for an hour, a cleanup is wanted ten times a second. Cleanups take a fifth of the time at most, and 2 s more,
// whether they succeed or fail. A cleanup that is wanted after calm starts at once.
func TestCleanerPace(t *testing.T) {
	for _, c := range []struct {
		took            time.Duration
		err             error
		atLeast, atMost int // runs
	}{
		{time.Millisecond, nil, 36_000, 36_000},
		{100 * time.Millisecond, nil, 5_900, 7_221},
		{time.Second, nil, 700, 723}, // with 1,000,000 entries
		{10 * time.Second, nil, 70, 73},
		{time.Millisecond, errors.New("refused"), 120, 130},
		{10 * time.Second, errors.New("refused"), 60, 73},
	} {
		p := newCleanerPace(staleShare, staleBurst)
		begin := time.Unix(1000, 0)
		now, runs := begin, 0
		for next := begin; next.Sub(begin) < time.Hour; next = next.Add(100 * time.Millisecond) {
			if now.Before(next) {
				now = next
			}
			p.wanted = true
			if p.mayStart(now) {
				p.ended(now, now.Add(c.took), c.took, c.err)
				now = now.Add(c.took)
				runs++
			}
		}
		limit := now.Sub(begin)/staleShare + staleBurst + c.took
		if worked := time.Duration(runs) * c.took; runs < c.atLeast || runs > c.atMost || worked > limit {
			t.Errorf("cleanups of %s: %d, want %d to %d; they take %s, want %s at most", c.took, runs, c.atLeast, c.atMost, worked, limit)
		}
		if p.wanted = true; !p.mayStart(now.Add(time.Minute + staleShare*(staleBurst+c.took))) {
			t.Errorf("cleanups of %s: after calm the next one has to wait", c.took)
		}
	}
}

// TestCleanerOnBusyMachine: cleanups that take long because the machine is busy do not delay the next ones.
func TestCleanerOnBusyMachine(t *testing.T) {
	p := newCleanerPace(staleShare, staleBurst)
	now := time.Unix(1000, 0)
	for range 100 {
		p.ended(now, now.Add(time.Second), time.Millisecond, nil)
		now = now.Add(time.Second)
		if p.wait(now) != maxRest {
			t.Fatalf("the next cleanup waits %s", p.wait(now))
		}
	}
}

// TestThreadTime: the CPU time of a thread grows when it works, and not while it waits.
func TestThreadTime(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	time.Sleep(200 * time.Millisecond)
	asleep := threadTime() - before
	for sum := 0; threadTime()-before-asleep < 10*time.Millisecond; sum++ {
	}
	if asleep > 100*time.Millisecond {
		t.Errorf("%s asleep", asleep)
	}
}

// TestRepairsLookForFewConnections: after a repair, connections that began without rules are looked for only if rules that translate
// were missing, and only those to the frontends that were concerned.
func TestRepairsLookForFewConnections(t *testing.T) {
	d, k, log := newIdleDaemon(t)
	var l lifecycle
	if err := addConntrackCleaner(&l, d, 0, metrics.New("v1.2.3")); err != nil {
		t.Fatal(err)
	}
	runUntilCleanup(t, &l, k)
	looked := func(want ...string) {
		t.Helper()
		var lines []string
		within(t, fmt.Sprintf("looked for %q", want), func() bool {
			lines = log.Lines("looked for connections")
			return len(lines) >= len(want)
		})
		for i, line := range lines {
			if i >= len(want) || !strings.Contains(line, "flows=\""+want[i]+"\"") {
				t.Fatalf("looked for\n%s\nwant %q", strings.Join(lines, ""), want)
			}
		}
	}
	repair := func(set string) {
		t.Helper()
		tables, _, err := k.Read(render.Instance{}.TableIDs()...)
		if err != nil {
			t.Fatal(err)
		}
		s := tables[0].Set(set)
		if len(s.Elements) == 0 {
			t.Fatalf("%s has no elements", set)
		}
		if err := k.Apply([]nft.Change{{Op: nft.Delete, Object: nft.Elements{Set: s, List: s.Elements}}}, 0); err != nil {
			t.Fatal(err)
		}
		d.takeExternal(kernel.ExternalChange{})
		d.attempt()
	}
	web := testService("web", "10.96.0.1:80", "10.0.0.1:80")
	web.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	d.take(render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{web}})
	d.attempt()
	looked("ip tcp", "ip6 tcp")
	repair("connections")
	repair("cluster-ips")
	repair("services")
	looked("ip tcp", "ip6 tcp", "ip tcp to 10.96.0.1:80", "ip tcp to 203.0.113.1:80")
}

func (s *cleanerTest) eventually(what string, done func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !done() {
		time.Sleep(5 * time.Millisecond)
		if ctx.Err() != nil {
			s.t.Fatalf("never: %s", what)
		}
	}
}
