package ctnetlink

import (
	"testing"

	"nfproxy/conntrack"
	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// FuzzDecodeFlow: whatever an entry contains, it is decoded; and an entry that can be deleted, encoded again, is decoded as the
// same entry, so that no other one is deleted.
func FuzzDecodeFlow(f *testing.F) {
	for _, seed := range []conntrack.Flow{
		flow(nft.IPv4, "10.0.0.1:53211", "10.96.0.10:53", "10.244.0.2:53"),
		flow(nft.IPv6, "[fd00::1]:53211", "[fd00:96::a]:53", "[fd00:244::2]:53"),
	} {
		seed.Zone, seed.Closed = 7, true
		f.Add(encodeFlow(seed), seed.Family == nft.IPv6)
	}
	f.Fuzz(func(t *testing.T, b []byte, six bool) {
		family := nft.IPv4
		if six {
			family = nft.IPv6
		}
		got, ok := decodeFlow(family, b)
		if again, okAgain := decodeFlow(family, b); again != got || okAgain != ok {
			t.Errorf("decoded as %+v, then as %+v", got, again)
		}
		_ = got.String()
		if checkTuple(got) != nil {
			return
		}
		if !ok {
			t.Errorf("%s can be deleted and is not listed", got)
		}
		again, _ := decodeFlow(family, encodeFlow(got))
		if checkTuple(conntrack.Flow{Family: family, Protocol: got.Protocol, Original: got.Reply}) != nil {
			again.Reply, got.Reply = conntrack.Tuple{}, conntrack.Tuple{} // incomplete, so that it cannot be encoded
		}
		if again != got {
			t.Errorf("decoded as %+v and, encoded again, as %+v", got, again)
		}
		exactly := conntrack.Filter{Family: family, Protocol: got.Protocol, Destination: got.Original.Destination}
		if !exactly.Matches(again) {
			t.Errorf("the filter %s does not select %s", exactly, again)
		}
		var m nlmsg.Message
		appendFilter(&m, exactly)
	})
}

// encodeFlow returns the attributes of an entry as the kernel lists it.
func encodeFlow(f conntrack.Flow) []byte {
	var m nlmsg.Message
	appendTuple(&m, ctaTupleOrig, f.Protocol, f.Original)
	if f.Reply.Source.IsValid() && f.Reply.Destination.IsValid() {
		appendTuple(&m, ctaTupleReply, f.Protocol, f.Reply)
	}
	m.Uint32(ctaStatus, uint32(f.Status))
	m.Uint32(ctaID, f.ID)
	m.Uint16(ctaZone, f.Zone)
	if f.Closed {
		info := m.Nest(ctaProtoInfo)
		tcp := m.Nest(ctaProtoInfoTCP)
		m.Bytes(ctaProtoInfoTCPState, []byte{tcpTimeWait})
		m.Unnest(tcp)
		m.Unnest(info)
	}
	return m.Buf
}
