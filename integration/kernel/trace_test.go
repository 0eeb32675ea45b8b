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

// followed is a trace under way in a lab.
type followed struct {
	*trace.Session
	t        *testing.T
	journeys chan trace.PacketTrace
	result   trace.Result
	over     chan struct{}
	stop     context.CancelFunc
}

// follow starts a trace in the lab's namespace; packets are marked when it returns.
func (l *testNode) follow(t *testing.T, r trace.Request) *followed {
	t.Helper()
	f := &followed{t: t, journeys: make(chan trace.PacketTrace, r.Count), over: make(chan struct{})}
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
		defer close(f.over)
		var err error
		f.result, err = f.Run(ctx, func(j trace.PacketTrace) error { f.journeys <- j; return nil })
		if err := errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-f.over })
	return f
}

// next is the next packet.
func (f *followed) next() trace.PacketTrace {
	f.t.Helper()
	select {
	case j := <-f.journeys:
		return j
	case <-time.After(patience):
		f.t.Fatal("no packet was followed")
		return trace.PacketTrace{}
	}
}

// request follows one packet to an address of the world.
func (w *world) request(p nft.Protocol, b behaviour) trace.Request {
	at := netip.MustParseAddrPort(w.at(b.to, b.port))
	return trace.Request{To: report.Target{At: at, Protocol: p}, Count: 1, Timeout: time.Minute}
}

// checkTraced opens a connection for a row and holds what the kernel tells of its packet to who answered, and to Trace.
func (w *world) checkTraced(t *testing.T, p nft.Protocol, b behaviour) {
	paths := w.trace(p, b)
	f := w.follow(t, w.request(p, b))
	timeout := patience
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
	if want, got := rulesOfPath(path), rulesOfJourney(j); !slices.Equal(want, got) {
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

func rulesOfJourney(j trace.PacketTrace) []string {
	var rules []string
	for _, s := range j.Steps {
		if s.Ours() && s.Rule != "policy" && s.Rule != "end of chain" {
			rules = append(rules, s.Chain+": "+s.Rule)
		}
	}
	return rules
}

// TestFollow: cluster IPs. What the kernel tells of a packet is what the client experiences and what Trace says, rule by rule.
func TestFollow(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newWorld(t, f)
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			for _, b := range behaviours() {
				t.Run(fmt.Sprintf("%s/%s/%s", f, p, b.name), func(t *testing.T) { w.checkTraced(t, p, b) })
			}
		}
	}
}

// TestFollowMatrix: every kind of Service, address and source, and the Services that cannot serve everybody.
func TestFollowMatrix(t *testing.T) {
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
		w := newMatrixWorld(t, c.family, c.protocol, c.mode)
		for _, b := range c.rows {
			t.Run(fmt.Sprintf("%s/%s/%s/%s", c.family, c.protocol, c.mode, b.name), func(t *testing.T) { w.checkTraced(t, c.protocol, b) })
		}
	}
}

// web is the request for all packets to one Service of the world.
func (w *world) web(count int) trace.Request {
	return trace.Request{To: report.Target{Service: render.ServiceName{Namespace: "test", Name: "web-tcp"}}, Count: count, Timeout: time.Minute}
}

// marked counts the packets that rules of traces mark meanwhile. The kernel tells of a packet before it goes on, so that
// all of it comes before what it tells of one sent afterwards.
func (w *world) marked(t *testing.T, meanwhile func()) (n int) {
	t.Helper()
	var traces *trace.Listener
	if err := w.node.Do(func() (err error) { traces, err = trace.Listen(); return err }); err != nil {
		t.Fatal(err)
	}
	defer traces.Close()
	meanwhile()
	last := netip.MustParseAddrPort(w.at("free", 9))
	m := w.mark(t, trace.Tracing{To: []trace.Destination{{Protocol: nft.UDP, AddrPort: last}}, Count: 1, Timeout: time.Minute})
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
func TestFollowBound(t *testing.T) {
	w := newWorld(t, nft.IPv4)
	const connections, count = 1000, 5
	var f *followed
	n := w.marked(t, func() {
		f = w.follow(t, w.web(count))
		elsewhere := w.web(count)
		elsewhere.From = netip.MustParsePrefix("203.0.113.0/24")
		none := w.follow(t, elsewhere)
		for range connections {
			if _, err := connect(w.from("client"), nft.TCP, "", w.at("web", 80), patience); err != nil {
				t.Fatal(err)
			}
		}
		<-f.over
		none.stop()
		<-none.over
		if none.result.Seen != 0 {
			t.Errorf("%d of those from elsewhere", none.result.Seen)
		}
	})
	if n != count || f.result.Seen != count || f.result.Missed {
		t.Errorf("%d marked, %+v", n, f.result)
	}
}

// TestMarkerBound: the kernel itself counts, though nobody reads and nobody takes the rule away.
func TestMarkerBound(t *testing.T) {
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newWorld(t, family)
		at := netip.MustParseAddrPort(w.at("one", 80))
		what := trace.Tracing{To: []trace.Destination{{Protocol: nft.UDP, AddrPort: at}, {Protocol: nft.TCP, AddrPort: at}},
			Count: 5, Timeout: time.Minute}
		n := w.marked(t, func() {
			m := w.mark(t, what)
			defer m.Close()
			for _, from := range []string{"client", "node"} {
				for range 200 {
					if _, err := connect(w.from(from), nft.UDP, "", at.String(), patience); err != nil {
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

func (l *testNode) mark(t *testing.T, what trace.Tracing) (m *trace.Tracer) {
	t.Helper()
	if err := l.node.Do(func() (err error) { m, err = trace.StartTracer(what); return err }); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMarkerExpires: after its time a marker that nobody removed marks nothing. That is what a kernel without owners of
// tables is left with after a SIGKILL.
func TestMarkerExpires(t *testing.T) {
	w := newWorld(t, nft.IPv4)
	at := netip.MustParseAddrPort(w.at("one", 80))
	n := w.marked(t, func() {
		m := w.mark(t, trace.Tracing{To: []trace.Destination{{Protocol: nft.TCP, AddrPort: at}}, Count: 5, Timeout: time.Second})
		defer m.Close()
		if _, err := connect(w.from("client"), nft.TCP, "", at.String(), patience); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); strings.Contains(w.nft("", "list", "table", "inet", m.Table()), "expires"); {
			if time.Now().After(deadline) {
				t.Fatal("it does not expire")
			}
			time.Sleep(20 * time.Millisecond)
		}
		if _, err := connect(w.from("client"), nft.TCP, "", at.String(), patience); err != nil {
			t.Fatal(err)
		}
	})
	if n != 1 {
		t.Errorf("%d marked, not the one before", n)
	}
}

// TestMarkerListing: nft lists the table, and it is gone with Close. Nobody else can change it.
func TestMarkerListing(t *testing.T) {
	l := newTestNode(t)
	before := l.nft("", "list", "ruleset")
	m := l.mark(t, trace.Tracing{Count: 7, Timeout: time.Minute, From: netip.MustParsePrefix("10.0.0.0/12"), To: []trace.Destination{
		{Protocol: nft.TCP, AddrPort: netip.MustParseAddrPort("10.96.0.1:80")}}})
	listing := l.nft("", "list", "ruleset")
	for _, want := range []string{"table inet " + m.Table() + " {", "flags owner", "limit rate 1/week burst 7 packets meta nftrace set 1",
		"10.96.0.1 . tcp . 80 timeout 1m expires", "ip saddr 10.0.0.0/12 ip daddr . meta l4proto . th dport @to-ip ct status ! confirmed goto tracing",
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
func TestFollowNone(t *testing.T) {
	w := newWorld(t, nft.IPv4)
	before := w.nft("", "list", "tables")
	r := w.web(3)
	r.Timeout = time.Second
	f := w.follow(t, r)
	<-f.over
	if f.result.Seen != 0 || f.result.Missed || len(f.journeys) != 0 {
		t.Errorf("%+v", f.result)
	}
	if after := w.nft("", "list", "tables"); after != before {
		t.Errorf("it left\n%s", after)
	}
}

// TestFollowTogether: two traces of the same packets, and a stranger's rule that marks everything, each see them all.
func TestFollowTogether(t *testing.T) {
	w := newWorld(t, nft.IPv4)
	w.nft("table ip strange { chain c { type filter hook prerouting priority -300; meta nftrace set 1; }; }\n", "-f", "-")
	a, b := w.follow(t, w.web(3)), w.follow(t, w.web(3))
	for range 3 {
		got, err := connect(w.from("client"), nft.TCP, "", w.at("web", 80), patience)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*followed{a, b} {
			j := f.next()
			if j.Endpoint != got.endpoint || j.Service != "test/web-tcp:main" || j.Source.Addr().String() != w.addr("client") || len(rulesOfJourney(j)) != 5 {
				t.Errorf("%s answered, and the kernel says %+v", got.endpoint, j)
			}
		}
	}
}

// TestFollowOthers: what tables of others do is told as well: their verdicts, what they drop, and a source they replace.
func TestFollowOthers(t *testing.T) {
	w := newWorld(t, nft.IPv4)
	w.nft(`table inet wall { chain forward { type filter hook forward priority 0; policy accept; ip daddr 10.244.1.2 tcp dport 8080 counter accept; }; }
table ip far { chain out { type nat hook postrouting priority 50; ip daddr 10.244.1.2 snat to 192.0.2.77; }; }
`, "-f", "-")
	row := behaviour{from: "client", to: "one", port: 80}
	follow := func() trace.PacketTrace {
		t.Helper()
		f := w.follow(t, w.request(nft.TCP, row))
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
func TestFollowToNode(t *testing.T) {
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newWorld(t, family)
		l, err := w.node.Listen("tcp", w.at("node", 8080))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		w.apply(render.Update{Services: []render.Service{service("host", nft.TCP, w.at("free", 80), w.at("node", 8080))}})
		for _, from := range []string{"outside", "node"} {
			b := behaviour{from: from, to: "free", port: 80}
			f := w.follow(t, w.request(nft.TCP, b))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
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
