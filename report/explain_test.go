package report_test

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// mixedServices is a cluster with Services of every kind: policies Local, source ranges, session affinity, no endpoints.
func mixedServices() render.Update {
	endpoints := func(texts ...string) (all []render.Endpoint) {
		for i, text := range texts {
			all = append(all, render.Endpoint{AddrPort: netip.MustParseAddrPort(text), Node: []string{"node-a", "node-b"}[i%2], Ready: true, Serving: true})
		}
		return all
	}
	addr := netip.MustParseAddr
	service := func(name string, clusterIP string, port uint16, to ...string) render.Service {
		return render.Service{ServiceName: render.ServiceName{Namespace: "test", Name: name}, ClusterIPs: []netip.Addr{addr(clusterIP)},
			ExternalIPs: []netip.Addr{addr("203.0.113." + clusterIP[len(clusterIP)-1:])},
			Ports:       []render.Port{{Name: "main", Protocol: nft.TCP, Port: 80, NodePort: port, Endpoints: endpoints(to...)}}}
	}
	web := service("web", "10.96.0.1", 30001, "10.244.1.2:80", "10.244.2.2:80", "10.244.1.3:80")
	local := service("local", "10.96.0.2", 30002, "10.244.1.2:80", "10.244.2.2:80")
	local.ExternalLocal, local.InternalLocal = true, true
	sticky := service("sticky", "10.96.0.3", 30003, "10.244.1.2:80", "10.244.2.2:80")
	sticky.Affinity, sticky.ExternalLocal = time.Hour, true
	ranged := service("ranged", "10.96.0.4", 30004, "10.244.1.2:80")
	ranged.LoadBalancerIPs, ranged.SourceRanges = []netip.Addr{addr("203.0.113.99")}, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	return render.Update{
		Node: render.Node{Name: "node-a", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, Addresses: []netip.Addr{addr("192.0.2.10")}},
		Services: []render.Service{web, local, sticky, ranged, service("empty", "10.96.0.5", 30005)},
	}
}

// TestExplainAgrees: for every frontend and source, the explanation agrees with the desired state and there is no drift.
func TestExplainAgrees(t *testing.T) {
	u := mixedServices()
	tables := build(t, u)
	for _, p := range explainedPackets() {
		e := report.Explain(tables, report.Query{Packet: p, Desired: &u})
		x := e.Expected
		if e.Service == nil {
			if x.Service != "" || e.Outcome == report.Sent {
				t.Errorf("%v: explained as %+v, expected %+v", p, e, x)
			}
			continue
		}
		chosen := 0
		for _, c := range x.Endpoints {
			if c.Chosen {
				chosen++
			}
		}
		inRange := !slices.ContainsFunc(e.Why, func(r render.Reason) bool { return strings.Contains(string(r), "outside the Service's") })
		if x.Service != e.Service.Namespace+"/"+e.Service.Name || x.Action != e.Service.Action || inRange && chosen != len(e.Endpoints) {
			t.Errorf("%v: explained as %+v, expected %+v", p, e, x)
		}
		if x.Drift != (report.Drift{}) || len(e.Problems) > 0 {
			t.Errorf("%v: %+v, %v", p, x.Drift, e.Problems)
		}
	}
}

// TestExplainUnserved: with --unserved-ports, an unserved port of an external IP is explained as refused or dropped, and the desired state
// says the same. An address that is bound on the node is untouched. A ping of an address with an endpoint is answered.
func TestExplainUnserved(t *testing.T) {
	for unserved, want := range map[render.UnservedPorts]report.Outcome{render.PassUnserved: report.Untouched,
		render.RefuseUnserved: report.Refused, render.DropUnserved: report.Dropped} {
		u := mixedServices()
		u.Node.UnservedPorts, u.Node.AnswerPing = unserved, true
		tables := build(t, u)
		action := map[report.Outcome]string{report.Refused: "refuse", report.Dropped: "drop"}[want]
		for _, hook := range []nft.Hook{nft.Prerouting, nft.Output} {
			for _, to := range []string{"203.0.113.1:81", "203.0.113.99:443", "203.0.113.5:81"} {
				p := nft.Packet{Hook: hook, Protocol: nft.TCP, Source: netip.MustParseAddrPort("192.0.2.10:0"), Destination: netip.MustParseAddrPort(to)}
				e := report.Explain(tables, report.Query{Packet: p, Desired: &u})
				if e.Outcome != want || e.Expected.Action != action || e.Expected.Service != "" || len(e.Problems) > 0 || e.Expected.Drift != (report.Drift{}) {
					t.Errorf("%s: %s is explained as %+v, expected %+v", unserved, to, e, e.Expected)
				}
				p.Local = func(netip.Addr) bool { return true }
				if e := report.Explain(tables, report.Query{Packet: p, Desired: &u}); e.Outcome != report.Untouched || e.Expected.Action != "" {
					t.Errorf("%s: %s, bound on the node, is explained as %+v, expected %+v", unserved, to, e, e.Expected)
				}
			}
			for to, want := range map[string]report.Outcome{"203.0.113.1:0": report.Answered, "10.96.0.2:0": report.Answered, "203.0.113.5:0": want,
				"10.96.0.5:0": report.Refused} {
				p := nft.Packet{Hook: hook, Protocol: nft.ICMP, Source: netip.MustParseAddrPort("192.0.2.10:0"), Destination: netip.MustParseAddrPort(to)}
				if e := report.Explain(tables, report.Query{Packet: p, Desired: &u}); e.Outcome != want || len(e.Endpoints) > 0 || e.Expected.Why != "" {
					t.Errorf("%s: a ping of %s is explained as %+v, expected %+v", unserved, to, e, e.Expected)
				}
			}
		}
		d := report.Describe(tables)
		for _, described := range d.Tables {
			if described.UnservedPorts != action || !described.AnswersPing {
				t.Errorf("%s: the tables are described as %+v", unserved, described)
			}
		}
	}
}

// explainedPackets go from every kind of source to every frontend of mixedServices and to addresses that are none.
func explainedPackets() []nft.Packet {
	var all []nft.Packet
	for _, to := range []string{"10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80", "10.96.0.4:80", "10.96.0.5:80", "192.0.2.10:30001",
		"192.0.2.10:30002", "192.0.2.10:30003", "192.0.2.10:30005", "203.0.113.99:80", "203.0.113.3:80", "10.96.0.1:81", "10.96.9.9:80",
		"192.0.2.10:22"} {
		for from, hook := range map[string]nft.Hook{"10.244.1.9": nft.Prerouting, "10.244.1.2": nft.Prerouting, "192.0.2.10": nft.Output,
			"198.51.100.7": nft.Prerouting} {
			all = append(all, nft.Packet{Hook: hook, Protocol: nft.TCP, Source: netip.AddrPortFrom(netip.MustParseAddr(from), 0),
				Destination: netip.MustParseAddrPort(to)})
		}
	}
	return all
}

// TestExplainQuery: the remarks and the reason for the source are in the explanation, and without a table of the family
// there is an answer, too.
func TestExplainQuery(t *testing.T) {
	u := mixedServices()
	tables := build(t, u)
	packet := nft.Packet{Hook: nft.Output, Protocol: nft.TCP, Source: netip.MustParseAddrPort("192.0.2.10:0"),
		Destination: netip.MustParseAddrPort("10.96.0.1:80")}
	e := report.Explain(tables, report.Query{Packet: packet, SourceWhy: "the default", Remarks: []string{"no route"}})
	if e.From.Why != "the default" || e.From.Origin != report.ThisNode || !slices.Equal(e.Problems, []string{"no route"}) || e.Expected != nil {
		t.Errorf("explained as %+v", e)
	}
	if e = report.Explain(tables, report.Query{Packet: packet}); e.From.Why != "an address of this node" || e.Outcome != report.Sent {
		t.Errorf("explained as %+v", e)
	}
	e = report.Explain(tables[1:], report.Query{Packet: packet, Desired: &u})
	if e.Outcome != report.Untouched || !slices.Equal(e.Why, []render.Reason{report.NoTable}) || e.Expected == nil || e.Expected.Service != "test/web" {
		t.Errorf("without a table: explained as %+v, expected %+v", e, e.Expected)
	}
}

// TestExplainLocalAffinity: a remembered client of a Service with internalTrafficPolicy Local passes no balancing chain, and
// the policy is still among the reasons.
func TestExplainLocalAffinity(t *testing.T) {
	s := service("sticky", "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80")
	s.Affinity, s.InternalLocal = time.Hour, true
	tables := build(t, render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{s}})
	i := slices.IndexFunc(tables[0].Sets, func(s *nft.Set) bool { return strings.HasPrefix(s.Name, "affinity-local/") })
	if i < 0 {
		t.Fatalf("there is no map of clients in\n%s", tables[0])
	}
	client := netip.MustParseAddrPort("10.0.9.9:0")
	packet := nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP, Source: client, Destination: netip.MustParseAddrPort("10.96.0.1:80")}
	want := []render.Reason{render.InternalLocally}
	if e := report.Explain(tables, report.Query{Packet: packet}); len(e.Endpoints) != 2 || !slices.Equal(e.Why, want) {
		t.Errorf("a new client: %+v", e)
	}
	tables[0].Sets[i].Elements = []nft.Element{{Key: nft.Addr(client.Addr()), Data: nft.Addr(netip.MustParseAddr("10.0.0.2")) + nft.Port(80)}}
	want = append(want, report.ClientRemembered)
	if e := report.Explain(tables, report.Query{Packet: packet}); len(e.Endpoints) != 1 || !slices.Equal(e.Why, want) {
		t.Errorf("a remembered client: %+v", e)
	}
}

// TestExplainDelivered: an endpoint that is this node itself is reached through hook input, which remembers the client and
// masquerades nothing.
func TestExplainDelivered(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.10")
	s := service("sticky", "10.96.0.1:80", "192.0.2.10:8080")
	s.Affinity, s.ExternalIPs = time.Hour, []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	tables := build(t, render.Update{Node: render.Node{Name: "n", Addresses: []netip.Addr{node}}, Services: []render.Service{s}})
	packet := nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP, Source: netip.MustParseAddrPort("198.51.100.7:0"),
		Destination: netip.MustParseAddrPort("203.0.113.1:80")}
	for _, c := range []struct {
		local func(netip.Addr) bool
		chain string
		why   render.Reason
	}{
		{func(a netip.Addr) bool { return a == node }, "learn/ns/sticky/tcp/p", report.EndpointIsNode},
		{nil, render.MasqueradeAllChain, render.ToOtherNodes},
	} {
		packet.Local = c.local
		e := report.Explain(tables, report.Query{Packet: packet})
		if len(e.Endpoints) != 1 || e.Affinity == nil || e.Endpoints[0].MasqueradeWhy != c.why {
			t.Fatalf("explained as %+v, want %s", e, c.why)
		}
		if last := e.Rules[len(e.Rules)-1]; last.Chain != c.chain {
			t.Errorf("the last rule is %+v, want one of chain %s", last, c.chain)
		}
	}
}

// TestExplainAnything: tables that other programs changed, or that no kernel would accept, are explained without a panic
// and in bounded time.
func TestExplainAnything(t *testing.T) {
	for seed := range uint64(150) {
		explainAnything(t, seed)
	}
}

// FuzzExplain does the same with other seeds.
func FuzzExplain(f *testing.F) {
	f.Fuzz(func(t *testing.T, seed uint64) { explainAnything(t, seed) })
}

func explainAnything(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	u := mixedServices()
	tables := build(t, u)
	for range 1 + r.IntN(12) {
		spoil(r, tables[r.IntN(2)])
	}
	if r.IntN(8) == 0 {
		tables = tables[r.IntN(2):][:1]
	}
	for _, p := range explainedPackets() {
		p.Hook = nft.Hook(r.IntN(5))
		if r.IntN(5) == 0 {
			p.Destination = netip.MustParseAddrPort("[fd00::1]:80")
		}
		e := report.Explain(tables, report.Query{Packet: p})
		if sum := 0; e.Outcome == report.Sent && len(e.Problems) == 0 {
			chance := 0.0
			for _, c := range e.Endpoints {
				sum, chance = sum+c.Draws, chance+c.Chance
			}
			if sum != e.Endpoints[0].Of || math.Abs(chance-1) > 1e-9 {
				t.Fatalf("seed %d: %v: the chances add up to %d of %d: %+v", seed, p, sum, e.Endpoints[0].Of, e)
			}
		}
	}
	report.Explain(tables, report.Query{Packet: explainedPackets()[0], Desired: &u})
}

// spoil changes a table in a way that render never does.
func spoil(r *rand.Rand, t *nft.Table) {
	if len(t.Sets) == 0 || len(t.Chains) == 0 {
		return
	}
	s, c := t.Sets[r.IntN(len(t.Sets))], t.Chains[r.IntN(len(t.Chains))]
	there := nft.Verdict{Kind: nft.VerdictKind(r.IntN(7)), Chain: t.Chains[r.IntN(len(t.Chains))].Name}
	switch r.IntN(9) {
	case 0:
		t.Sets = slices.DeleteFunc(t.Sets, func(o *nft.Set) bool { return o == s })
	case 1:
		t.Chains = slices.DeleteFunc(t.Chains, func(o *nft.Chain) bool { return o == c })
	case 2:
		s.Interval = !s.Interval
	case 3:
		s.Key, s.Data = []nft.Type{nft.Type(r.IntN(7)), nft.Type(r.IntN(7))}, []nft.Type{nft.Type(r.IntN(7))}
	case 4:
		c.Rules = append([]nft.Rule{{Do: there}}, c.Rules...)
	case 5:
		c.Rules = append([]nft.Rule{{Do: nft.Opaque{Text: "\x1b[2J%s"}}}, c.Rules...)
	case 6:
		key := []nft.Field{{Kind: nft.FieldKind(r.IntN(9)), Mod: uint32(r.IntN(1 << 12))}}
		c.Rules = append([]nft.Rule{{Do: nft.DNAT{Key: key, Map: s.Name}}}, c.Rules...)
	default:
		spoilElement(r, s, there)
	}
}

func spoilElement(r *rand.Rand, s *nft.Set, there nft.Verdict) {
	if len(s.Elements) == 0 {
		return
	}
	e := &s.Elements[r.IntN(len(s.Elements))]
	switch r.IntN(4) {
	case 0:
		e.Key = e.Key[:r.IntN(len(e.Key)+1)]
	case 1:
		e.Data = e.Data[:r.IntN(len(e.Data)+1)]
	case 2:
		e.Data = there.Value()
	case 3:
		e.Comment = []string{"", "/", "a/b:c:d", "%s%n\x1b\n\t", strings.Repeat("x", 300)}[r.IntN(5)]
	}
}

// TestObserveOtherShape: the slots of a map that has the right name and another key type, in which two slots can have the
// same number, are replaced.
func TestObserveOtherShape(t *testing.T) {
	u := mixedServices()
	tables := build(t, u)
	slots := tables[0].Set("endpoints")
	slots.Key = []nft.Type{nft.IPv4Addr, nft.InetProto, nft.InetService, nft.InetProto}
	for i, e := range slots.Elements {
		slots.Elements[i].Key = e.Key[:len(e.Key)-2] + e.Key[len(e.Key)-1:]
	}
	r := render.NewRuleset(u.Node)
	r.Update(u)
	r.Observe(tables)
	r.Plan()
	r.Accept()
	if got, want := r.Tables()[0].String(), build(t, u)[0].String(); got != want {
		t.Errorf("the tables are\n%s\nwant\n%s", got, want)
	}
}

// TestExplainLoopback: the tables touch no connection to a loopback address; the explanation says what else may serve it, and,
// with a desired state, what does.
func TestExplainLoopback(t *testing.T) {
	u := mixedServices()
	u.Node.Loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	older := u.Services[0]
	older.Name, older.Ports = "older", slices.Clone(older.Ports)
	older.Ports[0].NodePort = 30005 // of Service empty, which is older by name
	u.Services = append(u.Services, older)
	tables := build(t, u)
	for _, tc := range []struct {
		to       string
		protocol nft.Protocol
		why      render.Reason // contained in the reason
		service  string
		action   string
		expected render.Reason
		chosen   int // of the endpoints
	}{
		{"127.0.0.1:30001", nft.TCP, "; 30001/tcp is a node port of test/web:main", "test/web", "listen", report.ListenerServes, 3},
		{"127.0.0.1:30002", nft.TCP, "; 30002/tcp is a node port of test/local:main", "test/local", "listen", report.ListenerServes, 1},
		{"127.0.0.1:30005", nft.TCP, "; 30005/tcp is a node port of test/empty:main", "test/empty", "refuse", render.NoEndpoint, 0},
		{"127.0.0.1:30009", nft.TCP, "if its node port addresses contain localhost", "", "", report.NotClaimed, 0},
		{"127.0.0.1:30001", nft.UDP, report.OnlyTCP, "", "", report.OnlyTCP, 0},
		{"127.0.0.2:30001", nft.TCP, report.LoopbackUntouched, "", "", report.NoListener, 0},
		{"[::1]:30001", nft.TCP, report.LoopbackUntouched, "", "", report.NoListener, 0},
	} {
		p := nft.Packet{Hook: nft.Output, Protocol: tc.protocol, Destination: netip.MustParseAddrPort(tc.to)}
		p.Source = netip.AddrPortFrom(p.Destination.Addr(), 0)
		e := report.Explain(tables, report.Query{Packet: p, Desired: &u})
		if e.Outcome != report.Untouched || len(e.Why) != 1 || !strings.HasPrefix(string(e.Why[0]), string(report.LoopbackUntouched)) ||
			!strings.Contains(string(e.Why[0]), string(tc.why)) {
			t.Errorf("%s/%s: %s because %q, want %q", tc.to, tc.protocol, e.Outcome, e.Why, tc.why)
		}
		chosen := 0
		for _, c := range e.Expected.Endpoints {
			if c.Chosen {
				chosen++
			}
		}
		if x := e.Expected; x.Service != tc.service || x.Action != tc.action || x.Why != tc.expected || chosen != tc.chosen {
			t.Errorf("%s/%s: expected %+v, want %+v", tc.to, tc.protocol, x, tc)
		}
	}
}
