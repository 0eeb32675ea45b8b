package trace

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nlmsg"
)

// FuzzEvents: whatever trace events arrive, their packets are reported; no event belongs to two packets, and what is kept
// until a packet ends is bounded by the packets that have begun.
//
// The seed has the events of three connections on Linux 6.18: one to an endpoint by TCP over IPv4, one by UDP over IPv6, and
// one that is refused.
func FuzzEvents(f *testing.F) {
	nl, err := nlmsg.Dial()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { nl.Close() })
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &Listener{nl: nl}
		p := newPackets(tracer)
		events, begun, ended, ids := 0, 0, 0, make(map[uint32]bool)
		take := func(packets [][]Event) {
			for _, packet := range packets {
				ended += len(packet)
				checkReported(t, packet)
			}
		}
		for h, body := range nlmsg.Messages(b) {
			if h.Type != nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_TRACE) || len(body) < nlmsg.NFGenLen {
				continue
			}
			e := l.decode(body[0], body[nlmsg.NFGenLen:])
			events++
			ids[e.ID] = true
			packets, began := p.add(e)
			if began {
				begun++
			}
			take(packets)
			if len(p.open) != len(p.order) || len(p.open) > begun || len(p.early) > len(ids) {
				t.Fatalf("%d packets of %d are open, %d are in order, %d are early", len(p.open), begun, len(p.order), len(p.early))
			}
		}
		if open := slices.Sorted(maps.Keys(p.open)); !slices.Equal(open, slices.Sorted(slices.Values(p.order))) {
			t.Errorf("open are %d, in order are %d", open, p.order)
		}
		take(p.rest())
		if ended > events {
			t.Errorf("%d events, of which the packets have %d", events, ended)
		}
	})
}

// checkReported writes the trace of a packet in both formats.
func checkReported(t *testing.T, packet []Event) {
	t.Helper()
	if len(packet) == 0 {
		t.Fatal("a packet without events")
	}
	p := newPacketTrace(packet, tracer, rules)
	if err := p.Print(io.Discard); err != nil {
		t.Error(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again PacketTrace
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if len(again.Steps) != len(p.Steps) || again.Outcome != p.Outcome || again.Endpoint != p.Endpoint {
		t.Errorf("%+v, written and read as JSON, is %+v", p, again)
	}
}
