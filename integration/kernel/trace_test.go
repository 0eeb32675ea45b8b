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
	"nfproxy/trace"
)

// followed is a trace under way in a lab.
type runningTrace struct {
	*trace.Follower
	t       *testing.T
	packets chan trace.PacketTrace
	result  trace.Result
	done    chan struct{}
	stop    context.CancelFunc
}

// follow starts a trace in the lab's namespace; packets are marked when it returns.
func (l *testNode) startTrace(t *testing.T, r trace.Request) *runningTrace {
	t.Helper()
	f := &runningTrace{t: t, packets: make(chan trace.PacketTrace, r.Count), done: make(chan struct{})}
	err := l.node.Do(func() (err error) {
		f.Follower, err = trace.Open(r)
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
		f.result, err = f.Run(ctx, func(j trace.PacketTrace) error { f.packets <- j; return nil })
		if err := errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-f.done })
	return f
}

// next is the next packet.
func (f *runningTrace) next() trace.PacketTrace {
	f.t.Helper()
	select {
	case j := <-f.packets:
		return j
	case <-time.After(connectTimeout):
		f.t.Fatal("no packet was followed")
		return trace.PacketTrace{}
	}
}

// request follows one packet to an address of the world.
func (w *trafficNode) request(p nft.Protocol, b behaviour) trace.Request {
	at := netip.MustParseAddrPort(w.at(b.to, b.port))
	return trace.Request{To: trace.Target{At: trace.Destination{Protocol: p, AddrPort: at}}, Count: 1, Timeout: time.Minute}
}

// checkTraced opens a connection for a row and holds what the kernel tells of its packet to who answered, and to Trace.
func (w *trafficNode) checkTraced(t *testing.T, p nft.Protocol, b behaviour) {
	paths := w.simulate(p, b)
	f := w.startTrace(t, w.request(p, b))
	timeout := connectTimeout
	if b.dropped {
		timeout = 200 * time.Millisecond
	}
	got, err := connect(w.from(b.from), p, w.source(b.from), w.at(b.to, b.port), timeout)
	j := f.next()
	key := ""
	if len(b.reach) > 0 {
		key = got.endpoint.String()
		if err != nil || j.Endpoint != got.endpoint {
			t.Errorf("%s answered (%v), and the kernel says %+v", got.endpoint, err, j)
		}
		if source := j.Source; j.Masqueraded != b.masqueraded || j.NewSource.IsValid() && got.source != j.NewSource ||
			!j.NewSource.IsValid() && got.source != source {
			t.Errorf("%s saw %s, and the kernel says %+v", got.endpoint, got.source, j)
		}
	}
	path, ok := paths[key]
	if !ok || j.Outcome != path.Outcome.String() || j.Masqueraded != path.Masqueraded {
		t.Errorf("Trace says %+v, the kernel %+v", paths, j)
	}
	if want, got := rulesOfPath(path), rulesOfTrace(j); !slices.Equal(want, got) {
		t.Errorf("the rules Trace names are\n%s\nand those the kernel names\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	if j.Destination.String() != w.at(b.to, b.port) || j.Protocol != p.String() || (j.In == "") != (b.from == "node") {
		t.Errorf("not the packet that was sent: %+v", j)
	}
}

// rulesOfPath are the rules of a path, without those whose lookup found nothing: they do not hold for the kernel.
func rulesOfPath(p nft.Path) []string {
	var rules []string
	for _, s := range p.Steps {
		if s.Result != "no element" {
			rules = append(rules, s.Chain+": "+s.Rule)
		}
	}
	return rules
}

func rulesOfTrace(j trace.PacketTrace) []string {
	var rules []string
	for _, s := range j.Steps {
		if s.Ours() && s.Rule != "policy" && s.Rule != "end of chain" {
			rules = append(rules, s.Chain+": "+s.Rule)
		}
	}
	return rules
}

// TestFollow: cluster IPs. What the kernel tells of a packet is what the client experiences and what Trace says, rule by rule.
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

// TestFollowMatrix: every kind of Service, address and source, and the Services that cannot serve everybody.
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

// web is the request for all packets to one Service of the world.
func (w *trafficNode) requestWeb(count int) trace.Request {
	return trace.Request{To: trace.Target{Namespace: "test", Name: "web-tcp"}, Count: count, Timeout: time.Minute}
}

// marked counts the packets that rules of traces mark meanwhile. The kernel tells of a packet before it goes on, so that
// all of it comes before what it tells of one sent afterwards.
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

// TestFollowBound: of a thousand connections as many are marked as were asked for, and no more; none of those that come
// from elsewhere than asked for.
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
			t.Errorf("%d of those from elsewhere", none.result.Seen)
		}
	})
	if n != count || f.result.Seen != count || f.result.Missed {
		t.Errorf("%d marked, %+v", n, f.result)
	}
}

// TestMarkerBound: the kernel itself counts, though nobody reads and nobody takes the rule away.
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
			t.Errorf("%s: %d marked", family, n)
		}
	}
}

func (l *testNode) startTracer(t *testing.T, what trace.Tracing) (m *trace.Tracer) {
	t.Helper()
	if err := l.node.Do(func() (err error) { m, err = trace.StartTracer(what); return err }); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMarkerExpires: after its time a marker that nobody removed marks nothing. That is what a kernel without owners of
// tables is left with after a SIGKILL.
func TestTracerExpires(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	at := netip.MustParseAddrPort(w.at("one", 80))
	n := w.countTraced(t, func() {
		m := w.startTracer(t, trace.Tracing{To: []trace.Destination{{Protocol: nft.TCP, AddrPort: at}}, Count: 5, Timeout: time.Second})
		defer m.Close()
		if _, err := connect(w.from("client"), nft.TCP, "", at.String(), connectTimeout); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(connectTimeout); strings.Contains(w.nft("", "list", "table", "inet", m.Table()), "expires"); {
			if time.Now().After(deadline) {
				t.Fatal("it does not expire")
			}
			time.Sleep(20 * time.Millisecond)
		}
		if _, err := connect(w.from("client"), nft.TCP, "", at.String(), connectTimeout); err != nil {
			t.Fatal(err)
		}
	})
	if n != 1 {
		t.Errorf("%d marked, not the one before", n)
	}
}

// TestMarkerListing: nft lists the table, and it is gone with Close. Nobody else can change it.
func TestTracerListing(t *testing.T) {
	l := newTestNode(t)
	before := l.nft("", "list", "ruleset")
	m := l.startTracer(t, trace.Tracing{Count: 7, Timeout: time.Minute, From: netip.MustParsePrefix("10.0.0.0/12"), To: []trace.Destination{
		{Protocol: nft.TCP, AddrPort: netip.MustParseAddrPort("10.96.0.1:80")}}})
	listing := l.nft("", "list", "ruleset")
	for _, want := range []string{"table inet " + m.Table() + " {", "flags owner", "limit rate 1/week burst 7 packets meta nftrace set 1",
		"10.96.0.1 . tcp . 80 timeout 1m expires", "ip saddr 10.0.0.0/12 ip daddr . meta l4proto . th dport @to-ip ct status ! confirmed goto marks",
		"type filter hook prerouting priority -199; policy accept;"} {
		if !strings.Contains(listing, want) {
			t.Errorf("no %q in\n%s", want, listing)
		}
	}
	l.nft("", "--json", "list", "ruleset")
	if out, err := runNFT(l.node, "", "delete", "table", "inet", m.Table()); err == nil {
		t.Errorf("nft removed it: %s", out)
	}
	l.nft("", "flush", "ruleset")
	if again := l.nft("", "list", "ruleset"); !strings.Contains(again, m.Table()) {
		t.Error("flush ruleset removed it")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if after := l.nft("", "list", "ruleset"); after != before {
		t.Errorf("it left\n%s", after)
	}
}

// TestFollowNone: no packet, no result, no table.
func TestTraceNothing(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	before := w.nft("", "list", "tables")
	r := w.requestWeb(3)
	r.Timeout = time.Second
	f := w.startTrace(t, r)
	<-f.done
	if f.result.Seen != 0 || f.result.Missed || len(f.packets) != 0 {
		t.Errorf("%+v", f.result)
	}
	if after := w.nft("", "list", "tables"); after != before {
		t.Errorf("it left\n%s", after)
	}
}

// TestFollowTogether: two traces of the same packets, and a stranger's rule that marks everything, each see them all.
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
			j := f.next()
			if j.Endpoint != got.endpoint || j.Service != "test/web-tcp:main" || j.Source.Addr().String() != w.addr("client") || len(rulesOfTrace(j)) != 5 {
				t.Errorf("%s answered, and the kernel says %+v", got.endpoint, j)
			}
		}
	}
}

// TestFollowOthers: what tables of others do is told as well: their verdicts, what they drop, and a source they replace.
func TestTraceForeignTables(t *testing.T) {
	w := newTrafficNode(t, nft.IPv4)
	w.nft(`table inet wall { chain forward { type filter hook forward priority 0; policy accept; ip daddr 10.244.1.2 tcp dport 8080 counter accept; }; }
table ip far { chain out { type nat hook postrouting priority 50; ip daddr 10.244.1.2 snat to 192.0.2.77; }; }
`, "-f", "-")
	row := behaviour{from: "client", to: "one", port: 80}
	follow := func() trace.PacketTrace {
		t.Helper()
		f := w.startTrace(t, w.request(nft.TCP, row))
		connect(w.from("client"), nft.TCP, "", w.at("one", 80), 200*time.Millisecond)
		return f.next()
	}
	j := follow()
	if !slices.Contains(j.Steps, trace.Step{Family: "inet", Table: "wall", Chain: "forward", Verdict: "accept"}) ||
		j.NewSource.Addr().String() != "192.0.2.77" || j.Masqueraded || j.Outcome != "accepted" {
		t.Errorf("%+v", j)
	}
	w.nft("", "insert", "rule", "inet", "wall", "forward", "drop")
	if j := follow(); j.Outcome != "dropped" || j.Steps[len(j.Steps)-1].Table != "wall" {
		t.Errorf("%+v", j)
	}
}

// TestFollowToNode: an endpoint on the node itself, from outside and from the node.
func TestTraceToNode(t *testing.T) {
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newTrafficNode(t, family)
		l, err := w.node.Listen("tcp", w.at("node", 8080))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		w.apply(render.Update{Services: []render.Service{service("host", nft.TCP, w.at("free", 80), w.at("node", 8080))}})
		for _, from := range []string{"outside", "node"} {
			b := behaviour{from: from, to: "free", port: 80}
			f := w.startTrace(t, w.request(nft.TCP, b))
			ctx, cancel := context.WithTimeout(t.Context(), connectTimeout)
			c, err := w.from(from).Dial(ctx, "tcp", w.source(from), w.at("free", 80))
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if j := f.next(); j.Outcome != "accepted" || j.Endpoint.String() != w.at("node", 8080) {
				t.Errorf("%s, from %s: %+v", family, from, j)
			}
		}
	}
}
