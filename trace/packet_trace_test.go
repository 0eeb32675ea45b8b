package trace

import (
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
)

// tracer is the name of the tests' tracer table.
const tracer = TablePrefix + "1"

// event returns an event as the kernel sends it: of the rule, or of the chain's policy if rule is 0.
func event(id uint32, family, table, chain string, rule uint64, v nft.Verdict) Event {
	e := Event{ID: id, Kind: RuleEvent, Family: family, Table: table, Chain: chain, Rule: rule, Verdict: v}
	if rule == 0 {
		e.Kind = PolicyEvent
	}
	return e
}

func seen(e Event, source, destination string) Event {
	e.Packet = Packet{Protocol: nft.TCP, Source: netip.MustParseAddrPort(source), Destination: netip.MustParseAddrPort(destination), In: "eth0"}
	return e
}

func begin(id uint32) Event {
	return seen(event(id, "inet", tracer, TracingChain, 7, nft.Verdict{}), "10.0.0.9:1000", "10.96.0.1:80")
}

func ours(id uint32, chain string, rule uint64, v nft.Verdict) Event {
	return event(id, "ip", "nfproxy", chain, rule, v)
}

func leave(id uint32, source, destination string) Event {
	return seen(event(id, "inet", tracer, LeavingChain, 0, nft.Verdict{Kind: nft.Accept}), source, destination)
}

// rules is a ruleOf for the tests' tables.
func rules(e Event) (nft.Rule, bool) {
	if !e.Is(nft.TableID{Family: nft.IPv4, Name: "nfproxy"}) || e.Kind != RuleEvent {
		return nft.Rule{}, false
	}
	r, ok := map[uint64]nft.Rule{
		1: {Do: nft.GotoChain("dispatch")},
		2: {Do: nft.Masquerade{}},
		3: {Do: nft.Reject{TCPReset: true}},
		4: {Do: nft.Reject{}},
		5: {Do: nft.Verdict{Kind: nft.Drop}},
		6: {Do: nft.DNAT{Key: []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.ClientHash, Mod: 251}}, Map: "endpoints"}},
		7: {Do: nft.DNAT{Key: []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.ConnectionHash, Mod: 251}}, Map: "endpoints"}},
		9: {Match: []nft.Match{nft.In{Key: []nft.Field{{Kind: nft.DestinationAddr}}, Set: "rates"}}, Do: nft.VerdictMap{Key: []nft.Field{{Kind: nft.DestinationAddr}}, Map: "over-limit"}},
		8: {Do: nft.DNAT{Key: []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.RandomNumber, Mod: 2}}, Map: "endpoints"}},
	}[e.Rule]
	return r, ok
}

// TestPacketTrace: the text of each outcome of a packet.
func TestPacketTrace(t *testing.T) {
	accept, drop := nft.Verdict{Kind: nft.Accept}, nft.Verdict{Kind: nft.Drop}
	jump := ours(1, "prerouting", 1, nft.GotoChain("dispatch"))
	for name, c := range map[string]struct {
		events []Event
		want   string
	}{
		"to an endpoint": {[]Event{begin(1), jump, leave(1, "10.0.0.9:1000", "10.1.0.2:8080")},
			"  ip nfproxy  prerouting  goto dispatch\n  = to 10.1.0.2:8080, source unchanged\n"},
		"by the client's hash": {[]Event{begin(1), ours(1, "maglev-client-251", 6, accept), leave(1, "10.0.0.9:1000", "10.1.0.2:8080")},
			"  ip nfproxy  maglev-client-251  dnat ip to ip daddr . jhash ip saddr mod 251 seed 0x6e667078 map @endpoints: accept\n" +
				"  = to 10.1.0.2:8080, source unchanged; the endpoint follows from the client's address (lb-algorithm maglev)\n"},
		"by the connection's hash": {[]Event{begin(1), ours(1, "maglev-connection-251", 7, accept), leave(1, "10.0.0.9:1000", "10.1.0.2:8080")},
			"  ip nfproxy  maglev-connection-251  dnat ip to ip daddr . jhash ip saddr . th sport mod 251 seed 0x6e667078 map @endpoints: accept\n" +
				"  = to 10.1.0.2:8080, source unchanged; the endpoint follows from the client's address and port (lb-algorithm maglev)\n"},
		"at random": {[]Event{begin(1), ours(1, "draw-2", 8, accept), leave(1, "10.0.0.9:1000", "10.1.0.2:8080")},
			"  ip nfproxy  draw-2  dnat ip to ip daddr . numgen random mod 2 map @endpoints: accept\n  = to 10.1.0.2:8080, source unchanged\n"},
		"masqueraded": {[]Event{begin(1), ours(1, "masquerade-all", 2, accept), leave(1, "192.0.2.1:5", "10.1.0.2:8080")},
			"  ip nfproxy  masquerade-all  masquerade fully-random: accept\n  = to 10.1.0.2:8080, masqueraded as 192.0.2.1:5\n"},
		"source translated by another program": {[]Event{begin(1), event(1, "inet", "theirs", "out", 9, accept), leave(1, "192.0.2.1:5", "10.1.0.2:8080")},
			"  inet theirs  out  accept\n  = to 10.1.0.2:8080, source translated to 192.0.2.1:5 by another program\n"},
		"not translated": {[]Event{begin(1), ours(1, "prerouting", 0, accept), leave(1, "10.0.0.9:1000", "10.96.0.1:80")},
			"  ip nfproxy  prerouting  policy: accept\n  = not translated, source unchanged\n"},
		"reset": {[]Event{begin(1), ours(1, "refuse", 3, drop)},
			"  ip nfproxy  refuse  reject with tcp reset: drop\n  = refused with a TCP reset in ip nfproxy refuse\n"},
		"unreachable": {[]Event{begin(1), ours(1, "refuse", 4, drop)},
			"  ip nfproxy  refuse  reject: drop\n  = refused with ICMP port unreachable in ip nfproxy refuse\n"},
		"dropped": {[]Event{begin(1), ours(1, "dispatch", 5, drop)},
			"  ip nfproxy  dispatch  drop\n  = dropped in ip nfproxy dispatch\n"},
		"refused above a limit": {[]Event{begin(1), ours(1, "limited", 9, nft.GotoChain("refuse")), ours(1, "refuse", 3, drop)},
			"  ip nfproxy  limited  ip daddr @rates ip daddr vmap @over-limit: goto refuse\n  ip nfproxy  refuse   reject with tcp reset: drop\n" +
				"  = refused with a TCP reset in ip nfproxy refuse; the connection exceeds a limit of the Service on new connections\n"},
		"dropped above a limit": {[]Event{begin(1), ours(1, "limited", 9, drop)},
			"  ip nfproxy  limited  ip daddr @rates ip daddr vmap @over-limit: drop\n" +
				"  = dropped in ip nfproxy limited; the connection exceeds a limit of the Service on new connections\n"},
		"dropped by another program": {[]Event{begin(1), event(1, "ip", "theirs", "forward", 0, drop)},
			"  ip theirs  forward  policy: drop\n  = dropped in ip theirs forward\n"},
		"a rule that is gone": {[]Event{begin(1), ours(1, "dispatch", 99, drop)},
			"  ip nfproxy  dispatch  a rule that is gone: drop\n  = dropped in ip nfproxy dispatch\n"},
		"unknown":        {[]Event{begin(1)}, "  = outcome unknown: the packet was dropped outside nftables, or a program holds it in a queue\n"},
		"another tracer": {[]Event{begin(1), event(1, "inet", TablePrefix+"2", "first", 3, accept), jump, leave(1, "10.0.0.9:1000", "10.1.0.2:8080")}, "  ip nfproxy  prerouting  goto dispatch\n  = to 10.1.0.2:8080, source unchanged\n"},
	} {
		var text strings.Builder
		if err := newPacketTrace(c.events, tracer, rules).Print(&text); err != nil {
			t.Fatal(err)
		}
		want := "10.0.0.9:1000 > 10.96.0.1:80/tcp, received on eth0: no Service\n" + c.want + "\n"
		if text.String() != want {
			t.Errorf("%s:\n%s\nnot\n%s", name, text.String(), want)
		}
	}
}

// TestPackets: interleaved events are grouped by packet; packets that other programs trace are ignored.
func TestPackets(t *testing.T) {
	p := newPackets(tracer)
	add := func(e Event, began bool, ended int) [][]Event {
		t.Helper()
		packets, b := p.add(e)
		if b != began || len(packets) != ended {
			t.Errorf("%+v: began %v, %d ended", e, b, len(packets))
		}
		return packets
	}
	drop := ours(1, "dispatch", 5, nft.Verdict{Kind: nft.Drop})
	add(drop, false, 0) // traced by another program
	add(begin(1), true, 0)
	add(begin(2), true, 0)
	add(ours(2, "prerouting", 1, nft.GotoChain("dispatch")), false, 0)
	if got := add(drop, false, 1); len(got) == 1 && len(got[0]) != 2 {
		t.Errorf("%d events", len(got[0]))
	}
	add(drop, false, 0) // after its end
	add(begin(2), true, 1)
	if got := p.idle(); len(got) != 0 {
		t.Errorf("%d packets are idle, but all had events", len(got))
	}
	add(begin(3), true, 0)
	if got := p.idle(); len(got) != 1 || got[0][0].ID != 2 {
		t.Errorf("idle: %v", got)
	}
	if got := p.rest(); len(got) != 1 || got[0][0].ID != 3 {
		t.Errorf("the rest: %v", got)
	}
	if len(p.open)+len(p.order)+len(p.early) != 0 {
		t.Errorf("packets are left: %+v", p)
	}
}

// TestPacketTracedBefore: if another program traces a packet already, the kernel reports its header before the tracer's rule.
func TestPacketTracedBefore(t *testing.T) {
	p := newPackets(tracer)
	p.add(seen(event(1, "inet", tracer, "prerouting", 3, nft.GotoChain("first")), "10.0.0.9:1000", "10.96.0.1:80"))
	bare := begin(1)
	bare.Packet = Packet{}
	p.add(bare)
	got := p.rest()
	if len(got) != 1 || got[0][0].Packet.Destination.String() != "10.96.0.1:80" {
		t.Errorf("%+v", got)
	}
	p.add(seen(event(2, "inet", tracer, "prerouting", 3, nft.GotoChain("first")), "10.0.0.9:1000", "10.96.0.9:80"))
	p.add(event(2, "inet", tracer, "prerouting", 0, nft.Verdict{Kind: nft.Accept}))
	if len(p.early) != 0 {
		t.Errorf("packets without the tracer's rule are left: %v", p.early)
	}
}
