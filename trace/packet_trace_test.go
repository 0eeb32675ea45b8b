package trace

import (
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
)

const marker = TablePrefix + "1"

// The events of tests, as the kernel sends them.
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
	return seen(event(id, "inet", marker, TracingChain, 7, nft.Verdict{}), "10.0.0.9:1000", "10.96.0.1:80")
}

func ours(id uint32, chain string, rule uint64, v nft.Verdict) Event {
	return event(id, "ip", "nfproxy", chain, rule, v)
}

func leave(id uint32, source, destination string) Event {
	return seen(event(id, "inet", marker, LeavingChain, 0, nft.Verdict{Kind: nft.Accept}), source, destination)
}

// rules are those of the tests' tables.
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
	}[e.Rule]
	return r, ok
}

// TestJourney: the words for what becomes of packets.
func TestJourney(t *testing.T) {
	accept, drop := nft.Verdict{Kind: nft.Accept}, nft.Verdict{Kind: nft.Drop}
	jump := ours(1, "prerouting", 1, nft.GotoChain("dispatch"))
	for name, c := range map[string]struct {
		events []Event
		want   string
	}{
		"to an endpoint": {[]Event{begin(1), jump, leave(1, "10.0.0.9:1000", "10.1.0.2:8080")},
			"  ip nfproxy  prerouting  goto dispatch\n  = to 10.1.0.2:8080, its source kept\n"},
		"masqueraded": {[]Event{begin(1), ours(1, "masquerade-all", 2, accept), leave(1, "192.0.2.1:5", "10.1.0.2:8080")},
			"  ip nfproxy  masquerade-all  masquerade fully-random: accept\n  = to 10.1.0.2:8080, masqueraded as 192.0.2.1:5\n"},
		"masqueraded by others": {[]Event{begin(1), event(1, "inet", "theirs", "out", 9, accept), leave(1, "192.0.2.1:5", "10.1.0.2:8080")},
			"  inet theirs  out  accept\n  = to 10.1.0.2:8080, its source replaced by 192.0.2.1:5, not by nfproxy\n"},
		"not translated": {[]Event{begin(1), ours(1, "prerouting", 0, accept), leave(1, "10.0.0.9:1000", "10.96.0.1:80")},
			"  ip nfproxy  prerouting  policy: accept\n  = not translated, its source kept\n"},
		"reset": {[]Event{begin(1), ours(1, "refuse", 3, drop)},
			"  ip nfproxy  refuse  reject with tcp reset: drop\n  = refused with a TCP reset by ip nfproxy refuse\n"},
		"unreachable": {[]Event{begin(1), ours(1, "refuse", 4, drop)},
			"  ip nfproxy  refuse  reject: drop\n  = refused with ICMP port unreachable by ip nfproxy refuse\n"},
		"dropped": {[]Event{begin(1), ours(1, "dispatch", 5, drop)},
			"  ip nfproxy  dispatch  drop\n  = dropped by ip nfproxy dispatch\n"},
		"dropped by others": {[]Event{begin(1), event(1, "ip", "theirs", "forward", 0, drop)},
			"  ip theirs  forward  policy: drop\n  = dropped by ip theirs forward\n"},
		"a rule that is gone": {[]Event{begin(1), ours(1, "dispatch", 99, drop)},
			"  ip nfproxy  dispatch  a rule that is gone: drop\n  = dropped by ip nfproxy dispatch\n"},
		"lost":               {[]Event{begin(1)}, "  = nothing more was heard of it: it was dropped outside of nftables, or waits in a queue\n"},
		"a marker of others": {[]Event{begin(1), event(1, "inet", TablePrefix+"2", "first", 3, accept), jump, leave(1, "10.0.0.9:1000", "10.1.0.2:8080")}, "  ip nfproxy  prerouting  goto dispatch\n  = to 10.1.0.2:8080, its source kept\n"},
	} {
		var text strings.Builder
		if err := tell(c.events, marker, rules).Print(&text); err != nil {
			t.Fatal(err)
		}
		want := "10.0.0.9:1000 > 10.96.0.1:80/tcp, in by eth0: no Service's\n" + c.want + "\n"
		if text.String() != want {
			t.Errorf("%s:\n%s\nnot\n%s", name, text.String(), want)
		}
	}
}

// TestPackets: events of several packets at once are told apart; what others marked is left alone.
func TestPackets(t *testing.T) {
	p := newPackets(marker)
	add := func(e Event, began bool, ended int) [][]Event {
		t.Helper()
		packets, b := p.add(e)
		if b != began || len(packets) != ended {
			t.Errorf("%+v: began %v, %d ended", e, b, len(packets))
		}
		return packets
	}
	drop := ours(1, "dispatch", 5, nft.Verdict{Kind: nft.Drop})
	add(drop, false, 0) // somebody else's
	add(begin(1), true, 0)
	add(begin(2), true, 0)
	add(ours(2, "prerouting", 1, nft.GotoChain("dispatch")), false, 0)
	if got := add(drop, false, 1); len(got) == 1 && len(got[0]) != 2 {
		t.Errorf("%d events", len(got[0]))
	}
	add(drop, false, 0) // after its end
	add(begin(2), true, 1)
	if got := p.idle(); len(got) != 0 {
		t.Errorf("%d idle, and all were just heard of", len(got))
	}
	add(begin(3), true, 0)
	if got := p.idle(); len(got) != 1 || got[0][0].ID != 2 {
		t.Errorf("idle: %v", got)
	}
	if got := p.rest(); len(got) != 1 || got[0][0].ID != 3 {
		t.Errorf("the rest: %v", got)
	}
	if len(p.open)+len(p.order)+len(p.early) != 0 {
		t.Errorf("it keeps %+v", p)
	}
}

// TestPacketMarkedBefore: somebody else marked the packet first, so that the kernel shows it before our rule marks it.
func TestPacketMarkedBefore(t *testing.T) {
	p := newPackets(marker)
	p.add(seen(event(1, "inet", marker, "prerouting", 3, nft.GotoChain("first")), "10.0.0.9:1000", "10.96.0.1:80"))
	bare := begin(1)
	bare.Packet = Packet{}
	p.add(bare)
	got := p.rest()
	if len(got) != 1 || got[0][0].Packet.Destination.String() != "10.96.0.1:80" {
		t.Errorf("%+v", got)
	}
	p.add(seen(event(2, "inet", marker, "prerouting", 3, nft.GotoChain("first")), "10.0.0.9:1000", "10.96.0.9:80"))
	p.add(event(2, "inet", marker, "prerouting", 0, nft.Verdict{Kind: nft.Accept}))
	if len(p.early) != 0 {
		t.Errorf("it keeps packets that were not marked: %v", p.early)
	}
}
