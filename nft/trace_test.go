package nft

import (
	"net/netip"
	"testing"
)

// TestTraceJumps: a jump comes back, a goto does not, whatever the chain it came from has left to do.
func TestTraceJumps(t *testing.T) {
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
	p := Trace(table, Packet{Hook: Output, Protocol: TCP, Destination: to})
	var way string
	for _, s := range p.Steps {
		way += s.Chain + "(" + s.Result + ") "
	}
	want := "early(jump back) back(return) early(goto away) away(jump back) back(return) late(accept) post(masqueraded) "
	if way != want || p.Outcome != Accepted || !p.Masqueraded || p.Destination != to {
		t.Errorf("%s\n%+v", way, p)
	}
	if p := Trace(table, Packet{Hook: Output, Protocol: UDP, Destination: to}); p.Outcome != Dropped || p.Masqueraded {
		t.Errorf("%+v", p)
	}
	if p := Trace(table, Packet{Hook: Prerouting, Protocol: UDP, Destination: to}); p.Outcome != Accepted || len(p.Steps) != 1 {
		t.Errorf("%+v", p)
	}
}
