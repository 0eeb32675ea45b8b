package nft

import (
	"net/netip"
	"testing"
)

// TestSimulateJumps: a packet returns from a chain entered by jump, but not from one entered by goto.
func TestSimulateJumps(t *testing.T) {
	id := TableID{IPv4, "t"}
	tcp := []Match{OfProtocol{TCP}}
	table := &Table{TableID: id, Chains: []*Chain{
		{Name: "late", Hook: Output, Priority: 5, Rules: []Rule{{Do: Verdict{Kind: Accept}}}},
		{Name: "early", Hook: Output, Priority: -5, Rules: []Rule{
			{Do: Verdict{Kind: Jump, Chain: "back"}},
			{Match: []Match{OfProtocol{UDP}}, Do: Verdict{Kind: Drop}},
			{Match: tcp, Do: GotoChain("away")},
			{Do: Verdict{Kind: Drop}}}},
		{Name: "back", Rules: []Rule{{Do: Verdict{Kind: Return}}, {Do: Verdict{Kind: Drop}}}},
		{Name: "away", Rules: []Rule{{Do: Verdict{Kind: Jump, Chain: "back"}}}},
		{Name: "post", Hook: Postrouting, Rules: []Rule{{Do: Masquerade{}}}},
	}}
	to := netip.MustParseAddrPort("10.0.0.1:80")
	p := Simulate(table, Packet{Hook: Output, Protocol: TCP, Destination: to})
	var path string
	for _, s := range p.Steps {
		path += s.Chain + "(" + s.Result + ") "
	}
	want := "early(jump back) back(return) early(goto away) away(jump back) back(return) late(accept) post(masqueraded) "
	if path != want || p.Outcome != Accepted || !p.Masqueraded || p.Destination != to {
		t.Errorf("%s\n%+v", path, p)
	}
	if p := Simulate(table, Packet{Hook: Output, Protocol: UDP, Destination: to}); p.Outcome != Dropped || p.Masqueraded {
		t.Errorf("%+v", p)
	}
	if p := Simulate(table, Packet{Hook: Prerouting, Protocol: UDP, Destination: to}); p.Outcome != Accepted || len(p.Steps) != 1 {
		t.Errorf("%+v", p)
	}
}

// TestSimulateTranslated: when a base chain has translated a packet, those after it at the same hook do not see it.
func TestSimulateTranslated(t *testing.T) {
	id := TableID{IPv4, "t"}
	address, endpoint := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.1.0.1")
	m := &Set{Table: id, Name: "m", Key: []Type{IPv4Addr}, Data: []Type{IPv4Addr, InetService},
		Elements: []Element{{Key: Addr(address), Data: Addr(endpoint) + Port(80)}}}
	table := &Table{TableID: id, Sets: []*Set{m}, Chains: []*Chain{
		{Name: "first", Hook: Output, Priority: -100, Rules: []Rule{{Do: DNAT{Key: []Field{{Kind: DestinationAddr}}, Map: "m"}}}},
		{Name: "late", Hook: Output, Rules: []Rule{{Do: Verdict{Kind: Drop}}}},
		{Name: "post", Hook: Postrouting, Rules: []Rule{{Do: Masquerade{}}}},
		{Name: "post-late", Hook: Postrouting, Priority: 1, Rules: []Rule{{Do: Verdict{Kind: Drop}}}},
	}}
	p := Simulate(table, Packet{Hook: Output, Protocol: TCP, Destination: netip.AddrPortFrom(address, 80)})
	if p.Outcome != Accepted || p.Destination.Addr() != endpoint || !p.Masqueraded || len(p.Steps) != 2 {
		t.Errorf("%+v", p)
	}
	if p := Simulate(table, Packet{Hook: Output, Protocol: TCP, Destination: netip.AddrPortFrom(endpoint, 80)}); p.Outcome != Dropped {
		t.Errorf("%+v", p)
	}
}

// TestSimulatePing: a ping is redirected to this machine, at output by the loopback interface. Other packets are not.
func TestSimulatePing(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		redirect := []Rule{{Match: []Match{EchoRequest{}, FibDestinationLocal{Not: true}}, Do: Redirect{}}}
		table := &Table{TableID: TableID{f, "t"}, Chains: []*Chain{
			{Name: "in", Hook: Prerouting, Rules: redirect}, {Name: "out", Hook: Output, Rules: redirect},
			{Name: "input", Hook: Input, Rules: []Rule{{Match: []Match{CtStatusDNAT{}}, Do: Verdict{Kind: Accept}}}}}}
		to, loopback := netip.MustParseAddrPort("10.0.0.1:0"), netip.MustParseAddr("127.0.0.1")
		if f == IPv6 {
			to, loopback = netip.MustParseAddrPort("[fd00::1]:0"), netip.MustParseAddr("::1")
		}
		p := Packet{Hook: Prerouting, Protocol: f.ICMP(), Destination: to}
		if got := Simulate(table, p); !got.Redirected || !got.Delivered || len(got.Steps) != 2 {
			t.Errorf("%s: %+v", f, got)
		}
		p.Hook = Output
		if got := Simulate(table, p); !got.Redirected || got.Delivered || got.Destination.Addr() != loopback {
			t.Errorf("%s: %+v", f, got)
		}
		p.Protocol = TCP
		if got := Simulate(table, p); got.Redirected || len(got.Steps) != 0 {
			t.Errorf("%s: %+v", f, got)
		}
		p.Protocol, p.Local = f.ICMP(), func(netip.Addr) bool { return true }
		if got := Simulate(table, p); got.Redirected {
			t.Errorf("%s: an address of the node is redirected: %+v", f, got)
		}
	}
}

// TestSimulateEnds: the simulation of a table with loops, which no kernel accepts, ends after maxSteps.
func TestSimulateEnds(t *testing.T) {
	again := []Rule{{Do: Verdict{Kind: Jump, Chain: "a"}}, {Do: Verdict{Kind: Jump, Chain: "b"}}, {Do: GotoChain("a")}}
	table := &Table{TableID: TableID{IPv4, "t"}, Chains: []*Chain{{Name: "a", Hook: Output, Rules: again}, {Name: "b", Rules: again}}}
	p := Simulate(table, Packet{Hook: Output, Protocol: TCP, Destination: netip.MustParseAddrPort("10.0.0.1:80")})
	if len(p.Steps) != maxSteps || !p.Unfinished || p.Outcome != Accepted {
		t.Errorf("%d steps, unfinished %t, %s", len(p.Steps), p.Unfinished, p.Outcome)
	}
}

// TestSimulateChoices: Choices is the same for every draw, including draws that find no element.
func TestSimulateChoices(t *testing.T) {
	id := TableID{IPv4, "t"}
	slots := &Set{Table: id, Name: "slots", Key: []Type{SlotNumber}, Data: []Type{IPv4Addr, InetService},
		Elements: []Element{{Key: Slot(1), Data: Addr(netip.MustParseAddr("10.1.0.1")) + Port(8080)}}}
	draw := func(mod uint32) Rule {
		return Rule{Do: DNAT{Key: []Field{{Kind: RandomNumber, Mod: mod}}, Map: "slots"}}
	}
	table := &Table{TableID: id, Sets: []*Set{slots}, Chains: []*Chain{
		{Name: "out", Hook: Output, Rules: []Rule{draw(3), draw(1), {Do: Verdict{Kind: Drop}}}}}}
	for n, want := range []Outcome{Dropped, Accepted, Dropped} {
		p := Simulate(table, Packet{Hook: Output, Draw: uint32(n), Destination: netip.MustParseAddrPort("10.0.0.1:80")})
		if p.Choices != 3 || p.Outcome != want {
			t.Errorf("draw %d of %d: %s", n, p.Choices, p.Outcome)
		}
	}
}
