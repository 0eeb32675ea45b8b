package ctnetlink

import (
	"net/netip"
	"testing"

	"nfproxy/conntrack"
	"nfproxy/nft"
	"nfproxy/nlmsg"
)

func flow(f nft.Family, source, destination, answers string) conntrack.Flow {
	s, d, a := netip.MustParseAddrPort(source), netip.MustParseAddrPort(destination), netip.MustParseAddrPort(answers)
	return conntrack.Flow{Family: f, Protocol: nft.UDP, ID: 9, Status: conntrack.SeenReply,
		Original: conntrack.Tuple{Source: s, Destination: d}, Reply: conntrack.Tuple{Source: a, Destination: s}}
}

// TestDecodeFlow: a decoded entry has the addresses, zone, ID and status of the message, in both families.
func TestDecodeFlow(t *testing.T) {
	for _, want := range []conntrack.Flow{
		flow(nft.IPv4, "10.0.0.1:53211", "10.96.0.10:53", "10.244.0.2:53"),
		flow(nft.IPv6, "[fd00::1]:53211", "[fd00:96::a]:53", "[fd00:244::2]:53"),
	} {
		want.Zone = 7
		var m nlmsg.Message
		appendTuple(&m, ctaTupleOrig, want.Protocol, want.Original)
		appendTuple(&m, ctaTupleReply, want.Protocol, want.Reply)
		m.Uint32(ctaStatus, uint32(want.Status))
		m.Uint32(ctaID, want.ID)
		m.Uint16(ctaZone, want.Zone)
		if got, ok := decodeFlow(want.Family, m.Buf); !ok || got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	var icmp nlmsg.Message
	appendTuple(&icmp, ctaTupleOrig, 1, conntrack.Tuple{})
	if got, ok := decodeFlow(nft.IPv4, icmp.Buf); ok {
		t.Errorf("an entry without ports is decoded as %s", got)
	}
}

// TestCheckTuple: a flow without a complete tuple is refused, because the kernel would delete all entries.
func TestCheckTuple(t *testing.T) {
	whole := flow(nft.IPv4, "10.0.0.1:53211", "10.96.0.10:53", "10.244.0.2:53")
	if err := checkTuple(whole); err != nil {
		t.Error(err)
	}
	noSource, noDestination, otherFamily, noPorts := whole, whole, whole, whole
	noSource.Original.Source = netip.AddrPort{}
	noDestination.Original.Destination = netip.AddrPort{}
	otherFamily.Family = nft.IPv6
	noPorts.Protocol = 1
	for name, f := range map[string]conntrack.Flow{"no source": noSource, "no destination": noDestination,
		"another family": otherFamily, "no ports": noPorts, "nothing": {}} {
		if checkTuple(f) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
