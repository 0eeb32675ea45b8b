package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
	"nfproxy/trace"
)

// runningTrace is a trace that runs on a test node.
type runningTrace struct {
	*trace.Session
	t       *testing.T
	packets chan trace.PacketTrace
	result  trace.Result
	done    chan struct{}
	stop    context.CancelFunc
}

// startTrace starts a trace on the node. When it returns, the rules that select packets are in place.
func (l *testNode) startTrace(t *testing.T, r trace.Request) *runningTrace {
	t.Helper()
	f := &runningTrace{t: t, packets: make(chan trace.PacketTrace, r.Count), done: make(chan struct{})}
	err := l.node.Do(func() (err error) {
		f.Session, err = trace.Open(r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	f.stop = stop
	go func() {
		defer close(f.done)
		var err error
		f.result, err = f.Run(ctx, func(tr trace.PacketTrace) error { f.packets <- tr; return nil })
		if err := errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-f.done })
	return f
}

// next waits for the next traced packet.
func (f *runningTrace) next() trace.PacketTrace {
	f.t.Helper()
	select {
	case tr := <-f.packets:
		return tr
	case <-time.After(connectTimeout):
		f.t.Fatalf("no packet was traced within %v", connectTimeout)
		return trace.PacketTrace{}
	}
}

// request returns a request to trace one packet of a behaviour.
func (w *trafficNode) request(p nft.Protocol, b behaviour) trace.Request {
	at := netip.MustParseAddrPort(w.at(b.to, b.port))
	return trace.Request{To: report.Target{At: at, Protocol: p}, Count: 1, Timeout: time.Minute}
}

// checkTraced opens a connection of a behaviour and compares the trace of its packet with the answer and with Simulate.
func (w *trafficNode) checkTraced(t *testing.T, p nft.Protocol, b behaviour) {
	paths := w.simulate(p, b)
	f := w.startTrace(t, w.request(p, b))
	timeout := connectTimeout
	if b.dropped {
		timeout = 200 * time.Millisecond
	}
	got, err := connect(w.from(b.from), p, w.source(b.from), w.at(b.to, b.port), timeout)
	tr := f.next()
	key := ""
	if len(b.reach) > 0 {
		key = got.endpoint.String()
		if err != nil || tr.Endpoint != got.endpoint {
			t.Errorf("%s answered (%v), but the trace is %+v", got.endpoint, err, tr)
		}
		if source := tr.Source; tr.Masqueraded != b.masqueraded || tr.NewSource.IsValid() && got.source != tr.NewSource ||
			!tr.NewSource.IsValid() && got.source != source {
			t.Errorf("%s saw %s, but the trace is %+v", got.endpoint, got.source, tr)
		}
	}
	path, ok := paths[key]
	if !ok || tr.Outcome != path.Outcome.String() || tr.Masqueraded != path.Masqueraded {
		t.Errorf("Simulate returns %+v, the trace is %+v", paths, tr)
	}
	if want, got := rulesOfPath(path), rulesOfTrace(tr); !slices.Equal(want, got) {
		t.Errorf("the rules of Simulate are\n%s\nthose of the trace are\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	if tr.Destination.String() != w.at(b.to, b.port) || tr.Protocol != p.String() || (tr.In == "") != (b.from == "node") {
		t.Errorf("the traced packet is not the one that was sent: %+v", tr)
	}
}

// rulesOfPath returns the rules of a simulated path without those whose lookup found no element: the kernel does not trace them. Jumps
// to draw again, which depend on chance, count once.
func rulesOfPath(p nft.Path) []string {
	var rules []string
	for _, s := range p.Steps {
		if s.Result != "no element" {
			rules = append(rules, s.Chain+": "+s.Rule)
		}
	}
	return slices.Compact(rules)
}

// rulesOfTrace returns the rules of nfproxy's tables in a packet trace. Jumps to draw again count once.
func rulesOfTrace(tr trace.PacketTrace) []string {
	var rules []string
	for _, s := range tr.Steps {
		if s.Ours() && s.Rule != "policy" && s.Rule != "end of chain" {
			rules = append(rules, s.Chain+": "+s.Rule)
		}
	}
	return slices.Compact(rules)
}

// TestTraceClusterIP: for cluster IPs, the trace of a packet agrees with the client's experience and, rule by rule, with Simulate.
func TestTraceClusterIP(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newTrafficNode(t, f)
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			for _, b := range behaviours() {
				t.Run(fmt.Sprintf("%s/%s/%s", f, p, b.name), func(t *testing.T) { w.checkTraced(t, p, b) })
			}
		}
	}
}

// TestTraceMatrix: the same for every kind of Service, address and source, and for the Services of TestFewEndpoints.
func TestTraceMatrix(t *testing.T) {
	for _, c := range []struct {
		family   nft.Family
		protocol nft.Protocol
		mode     string
		rows     []behaviour
	}{
		{nft.IPv4, nft.TCP, "default", slices.Concat(cells(t, "default"), fewEndpoints())},
		{nft.IPv6, nft.TCP, "default", fewEndpoints()},
		{nft.IPv6, nft.UDP, "pod-prefix", cells(t, "pod-prefix")},
	} {
		w := newMatrixNode(t, c.family, c.protocol, c.mode)
		for _, b := range c.rows {
			t.Run(fmt.Sprintf("%s/%s/%s/%s", c.family, c.protocol, c.mode, b.name), func(t *testing.T) { w.checkTraced(t, c.protocol, b) })
		}
	}
}

// requestWeb returns a request to trace packets to Service web.
func (w *trafficNode) requestWeb(count int) trace.Request {
	return trace.Request{To: report.Target{Service: render.ServiceName{Namespace: "test", Name: "web-tcp"}}, Count: count, Timeout: time.Minute}
}

// countTraced returns the number of packets that rules of traces select while meanwhile runs. The kernel reports the trace of a
// packet before that of a packet sent later, so the trace of one last packet ends the count.
func (w *trafficNode) countTraced(t *testing.T, meanwhile func()) (n int) {
	t.Helper()
	var traces *trace.Listener
	if err := w.node.Do(func() (err error) { traces, err = trace.Listen(); return err }); err != nil {
		t.Fatal(err)
	}
	defer traces.Close()
	meanwhile()
	last := netip.MustParseAddrPort(w.at("free", 9))
	m := w.startTracer(t, trace.Tracing{To: []trace.Destination{{Protocol: nft.UDP, AddrPort: last}}, Count: 1, Timeout: time.Minute})
	defer m.Close()
	connect(w.node, nft.UDP, "", last.String(), 200*time.Millisecond) // it is dropped
	for {
		e, err := traces.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e.Begins(m.Table()) {
			return n
		}
		if e.Begins(e.Table) {
			n++
		}
	}
}

// TestTraceBound: of a thousand connections only the requested number is traced, and none from a source outside the requested
// prefix.
func TestTraceBound(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	const connections, count = 1000, 5
	var f *runningTrace
	n := w.countTraced(t, func() {
		f = w.startTrace(t, w.requestWeb(count))
		elsewhere := w.requestWeb(count)
		elsewhere.From = netip.MustParsePrefix("203.0.113.0/24")
		none := w.startTrace(t, elsewhere)
		for range connections {
			if _, err := connect(w.from("client"), nft.TCP, "", w.at("web", 80), connectTimeout); err != nil {
				t.Fatal(err)
			}
		}
		<-f.done
		none.stop()
		<-none.done
		if none.result.Seen != 0 {
			t.Errorf("%d packets traced from outside the requested prefix", none.result.Seen)
		}
	})
	if n != count || f.result.Seen != count || f.result.Missed {
		t.Errorf("%d packets traced, want %d; result %+v", n, count, f.result)
	}
}

// TestTracerBound: the kernel enforces the number of packets, even if no program reads the traces or removes the rule.
func TestTracerBound(t *testing.T) {
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newTrafficNode(t, family)
		at := netip.MustParseAddrPort(w.at("one", 80))
		what := trace.Tracing{To: []trace.Destination{{Protocol: nft.UDP, AddrPort: at}, {Protocol: nft.TCP, AddrPort: at}},
			Count: 5, Timeout: time.Minute}
		n := w.countTraced(t, func() {
			m := w.startTracer(t, what)
			defer m.Close()
			for _, from := range []string{"client", "node"} {
				for range 200 {
					if _, err := connect(w.from(from), nft.UDP, "", at.String(), connectTimeout); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
		if n != 5 {
			t.Errorf("%s: %d packets traced, want 5", family, n)
		}
	}
}

// startTracer creates the table that selects packets for tracing on the node.
func (l *testNode) startTracer(t *testing.T, what trace.Tracing) (m *trace.Tracer) {
	t.Helper()
	if err := l.node.Do(func() (err error) { m, err = trace.StartTracer(what); return err }); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestTracerExpires: a tracer that was not removed selects no packets after its timeout. A kernel without table owners keeps such
// a tracer after a SIGKILL.
func TestTracerExpires(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	at := netip.MustParseAddrPort(w.at("one", 80))
	n := w.countTraced(t, func() {
		m := w.startTracer(t, trace.Tracing{To: []trace.Destination{{Protocol: nft.TCP, AddrPort: at}}, Count: 5, Timeout: 3 * time.Second})
		defer m.Close()
		if _, err := connect(w.from("client"), nft.TCP, "", at.String(), connectTimeout); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(connectTimeout); strings.Contains(w.nft("", "list", "table", "inet", m.Table()), "expires"); {
			if time.Now().After(deadline) {
				t.Fatal("the tracer does not expire")
			}
			time.Sleep(20 * time.Millisecond)
		}
		if _, err := connect(w.from("client"), nft.TCP, "", at.String(), connectTimeout); err != nil {
			t.Fatal(err)
		}
	})
	if n != 1 {
		t.Errorf("%d packets traced, want the one before the timeout", n)
	}
}

// TestTracerListing: nft lists the tracer's table but cannot change it, and Close removes it.
func TestTracerListing(t *testing.T) {
	l := newTestNode(t)
	before := l.nft("", "list", "ruleset")
	m := l.startTracer(t, trace.Tracing{Count: 7, Timeout: time.Minute, From: netip.MustParsePrefix("10.0.0.0/12"), To: []trace.Destination{
		{Protocol: nft.TCP, AddrPort: netip.MustParseAddrPort("10.96.0.1:80")}}})
	listing := l.nft("", "list", "ruleset")
	for _, want := range []string{"table inet " + m.Table() + " {", "flags owner", "limit rate 1/week burst 7 packets meta nftrace set 1",
		"10.96.0.1 . tcp . 80 timeout 1m expires", "ip saddr 10.0.0.0/12 ip daddr . meta l4proto . th dport @to-ip ct status ! confirmed goto tracing",
		"type filter hook prerouting priority -199; policy accept;"} {
		if !strings.Contains(listing, want) {
			t.Errorf("the listing lacks %q:\n%s", want, listing)
		}
	}
	l.nft("", "--json", "list", "ruleset")
	if out, err := runNFT(l.node, "", "delete", "table", "inet", m.Table()); err == nil {
		t.Errorf("nft deleted the table: %s", out)
	}
	l.nft("", "flush", "ruleset")
	if again := l.nft("", "list", "ruleset"); !strings.Contains(again, m.Table()) {
		t.Error("nft flush ruleset deleted the table")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if after := l.nft("", "list", "ruleset"); after != before {
		t.Errorf("after Close nft lists\n%s", after)
	}
}

// TestTraceNothing: a trace without packets ends at its timeout with an empty result and leaves no table.
func TestTraceNothing(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	before := w.nft("", "list", "tables")
	r := w.requestWeb(3)
	r.Timeout = time.Second
	f := w.startTrace(t, r)
	<-f.done
	if f.result.Seen != 0 || f.result.Missed || len(f.packets) != 0 {
		t.Errorf("result %+v, want no packet", f.result)
	}
	if after := w.nft("", "list", "tables"); after != before {
		t.Errorf("after the trace nft lists\n%s", after)
	}
}

// TestTraceConcurrently: two traces of the same packets each report all of them, even if a foreign rule traces everything.
func TestTraceConcurrently(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	w.nft("table ip strange { chain c { type filter hook prerouting priority -300; meta nftrace set 1; }; }\n", "-f", "-")
	a, b := w.startTrace(t, w.requestWeb(3)), w.startTrace(t, w.requestWeb(3))
	for range 3 {
		got, err := connect(w.from("client"), nft.TCP, "", w.at("web", 80), connectTimeout)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*runningTrace{a, b} {
			tr := f.next()
			if tr.Endpoint != got.endpoint || tr.Service != "test/web-tcp:main" || tr.Source.Addr().String() != w.addr("client") || len(rulesOfTrace(tr)) != 6 {
				t.Errorf("%s answered, but the trace is %+v", got.endpoint, tr)
			}
		}
	}
}

// TestTraceForeignTables: a trace includes other tables: their verdicts, drops and source translations.
func TestTraceForeignTables(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	w.nft(`table inet wall { chain forward { type filter hook forward priority 0; policy accept; ip daddr 10.244.1.2 tcp dport 8080 counter accept; }; }
table ip far { chain out { type nat hook postrouting priority 50; ip daddr 10.244.1.2 snat to 192.0.2.77; }; }
`, "-f", "-")
	row := behaviour{from: "client", to: "one", port: 80}
	traceOne := func() trace.PacketTrace {
		t.Helper()
		f := w.startTrace(t, w.request(nft.TCP, row))
		connect(w.from("client"), nft.TCP, "", w.at("one", 80), time.Second)
		return f.next()
	}
	tr := traceOne()
	if !slices.Contains(tr.Steps, trace.Step{Family: "inet", Table: "wall", Chain: "forward", Verdict: "accept"}) ||
		tr.NewSource.Addr().String() != "192.0.2.77" || tr.Masqueraded || tr.Outcome != "accepted" {
		t.Errorf("trace with foreign accept and SNAT: %+v", tr)
	}
	w.nft("", "insert", "rule", "inet", "wall", "forward", "drop")
	if tr := traceOne(); tr.Outcome != "dropped" || tr.Steps[len(tr.Steps)-1].Table != "wall" {
		t.Errorf("trace with a foreign drop: %+v", tr)
	}
}

// TestTraceToNode: a packet to an endpoint on the node itself is traced to the end, from outside and from the node, with the chain
// that remembers the client.
func TestTraceToNode(t *testing.T) {
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newTrafficNode(t, family)
		l, err := w.node.Listen("tcp", w.at("node", 8080))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		s := service("host", nft.TCP, w.at("free", 80), w.at("node", 8080))
		for _, s.Affinity = range []time.Duration{0, time.Hour} {
			w.apply(render.Update{Services: []render.Service{s}})
			for from, chain := range map[string]string{"outside": "learn/", "node": "remember/"} {
				b := behaviour{from: from, to: "free", port: 80}
				f := w.startTrace(t, w.request(nft.TCP, b))
				ctx, cancel := context.WithTimeout(t.Context(), connectTimeout)
				c, err := w.from(from).Dial(ctx, "tcp", w.source(from), w.at("free", 80))
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				tr := f.next()
				if tr.Outcome != "accepted" || tr.Endpoint.String() != w.at("node", 8080) {
					t.Errorf("%s, from %s: trace %+v", family, from, tr)
				}
				inChain := func(s trace.Step) bool { return strings.HasPrefix(s.Chain, chain) }
				if remembered := slices.ContainsFunc(tr.Steps, inChain); remembered != (s.Affinity > 0) {
					t.Errorf("%s, from %s, affinity %s: a rule of chain %s: %v: %+v", family, from, s.Affinity, chain, remembered, tr)
				}
			}
		}
	}
}
