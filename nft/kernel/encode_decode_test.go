package kernel

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// TestTypeofUserdata: the bytes are those that nft 1.0.6 writes for the declaration, read from a set that it made.
func TestTypeofUserdata(t *testing.T) {
	want := map[nft.Family]string{
		nft.IPv4: "000400000000010400000000036000040d00000001580014000407000000010c00040c00000001040c000000010e00040900000001060004100000000214000407000000010c00040b000000010402000000031a00041700000001120004010000000104ffff0000020400000000043400040d000000012c0014000407000000010c00040c00000001040c0000000114000407000000010c00040b000000010402000000060400000000",
		nft.IPv6: "000400000000010400000000036000040d00000001580014000407000000010c00040d000000010409000000010e00040900000001060004100000000214000407000000010c00040b000000010402000000031a00041700000001120004010000000104ffff0000020400000000043400040d000000012c0014000407000000010c00040d0000000104090000000114000407000000010c00040b000000010402000000060400000000",
	}
	for f, w := range want {
		s := &nft.Set{Table: nft.TableID{Family: f}, Key: []nft.Type{f.AddrType(), nft.SlotNumber}}
		if got := hex.EncodeToString(typeofUserdata(s)); got != w {
			t.Errorf("%s: %s", f, cmp.Diff(w, got))
		}
	}
}

// setsOfAllKinds returns sets with keys of all types and with intervals.
func setsOfAllKinds() []*nft.Set {
	addr4, addr6 := nft.Addr(netip.MustParseAddr("10.0.0.1")), nft.Addr(netip.MustParseAddr("fd00::1"))
	frontend := addr6 + nft.Proto(nft.SCTP) + nft.Port(65535)
	return []*nft.Set{
		{Name: "one field", Key: []nft.Type{nft.IPv4Addr}, Elements: []nft.Element{{Key: addr4}}},
		{Name: "one short field", Key: []nft.Type{nft.InetService}, Elements: []nft.Element{{Key: nft.Port(443)}}},
		{Name: "verdicts", Key: []nft.Type{nft.IPv6Addr, nft.InetProto, nft.InetService}, Data: []nft.Type{nft.VerdictType},
			Elements: []nft.Element{{Key: frontend, Data: nft.GotoChain("c").Value(), Comment: "a/b:c",
				Counter: &nft.Counter{Packets: 5, Bytes: 300}}}},
		{Name: "directions", Key: []nft.Type{nft.CtDirection}, Data: []nft.Type{nft.VerdictType},
			Elements: []nft.Element{{Key: nft.Original.Value(), Data: nft.GotoChain("c").Value()}, {Key: nft.Reply.Value(), Data: nft.GotoChain("c").Value()}}},
		{Name: "slots", Key: []nft.Type{nft.IPv6Addr, nft.InetProto, nft.InetService, nft.SlotNumber},
			Data:     []nft.Type{nft.IPv6Addr, nft.InetService},
			Elements: []nft.Element{{Key: frontend + nft.Slot(513), Data: addr6 + nft.Port(1)}}},
		{Name: "intervals", Key: []nft.Type{nft.IPv4Addr}, Interval: true, Elements: []nft.Element{
			{Key: nft.Interval(netip.MustParsePrefix("10.0.0.0/8"))}, {Key: nft.Interval(netip.MustParsePrefix("11.0.0.0/8"))},
			{Key: nft.Interval(netip.MustParsePrefix("255.0.0.0/8"))}}},
		{Name: "everything", Key: []nft.Type{nft.IPv6Addr}, Interval: true,
			Elements: []nft.Element{{Key: nft.Interval(netip.MustParsePrefix("::/0"))}}},
		{Name: "catch-all", Key: []nft.Type{nft.IPv4Addr}, Data: []nft.Type{nft.VerdictType},
			Elements: []nft.Element{{Data: nft.GotoChain("c").Value()}, {Key: addr4, Data: nft.GotoChain("c").Value()}}},
		{Name: "catch-all beside intervals", Key: []nft.Type{nft.IPv4Addr}, Interval: true,
			Elements: []nft.Element{{}, {Key: nft.Interval(netip.MustParsePrefix("10.0.0.0/8"))}}},
		{Name: "intervals of two fields", Key: []nft.Type{nft.InetService, nft.IPv4Addr}, Interval: true,
			Elements: []nft.Element{{Key: nft.Port(80) + addr4 + nft.Port(90) + addr4}}},
	}
}

// TestElements: an element that is encoded and decoded is unchanged, for keys of all types and for intervals.
func TestElements(t *testing.T) {
	for _, s := range setsOfAllKinds() {
		var m nlmsg.Message
		for _, e := range s.Elements {
			addElement(&m, s, e, false)
		}
		var all []kernelElement
		for _, b := range nlmsg.Attributes(m.Buf) {
			e := decodeElement(s, b)
			// The kernel accepts expressions in this attribute and returns them in another.
			for kind, b := range nlmsg.Attributes(b) {
				if kind == elemExpressions {
					for _, b := range nlmsg.Attributes(b) {
						e.Counter = decodeCounter(b)
					}
				}
			}
			all = append(all, e)
		}
		var got []nft.Element
		if s.Interval {
			got = joinIntervals(s, all)
		} else {
			for _, e := range all {
				got = append(got, e.Element)
			}
		}
		if diff := cmp.Diff(s.Elements, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.Name, diff)
		}
	}
}

// FuzzGarbage: decoding does not panic, whatever the bytes.
func FuzzGarbage(f *testing.F) {
	var m nlmsg.Message
	m.Begin(1, 2, 3, 4, 5)
	m.String(1, "x")
	m.End()
	f.Add(m.Buf)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, body := range nlmsg.Messages(b) {
			decodeChain(nft.IPv4, body)
			decodeSurveyed(body)
			decodeSet(nft.IPv4, body)
			decodeRule(nft.IPv6, decodeExprs(nft.IPv6, body))
			decodeElement(&nft.Set{Key: []nft.Type{nft.IPv6Addr, nft.SlotNumber}, Data: []nft.Type{nft.VerdictType}}, body)
		}
		decodeAnswers(b)
		(&Monitor{subscription: &subscription{}}).take(b)
	})
}
