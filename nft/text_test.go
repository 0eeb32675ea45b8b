package nft

import (
	"net/netip"
	"testing"
)

// TestText: changes are printed as the nft commands that make them.
func TestText(t *testing.T) {
	addr := func(s string) Value { return Addr(netip.MustParseAddr(s)) }
	id := TableID{IPv4, "t"}
	slots := &Set{Table: id, Name: "slots", Key: []Type{IPv4Addr, InetProto, InetService, SlotNumber},
		Data: []Type{IPv4Addr, InetService}}
	ranges := &Set{Table: id, Name: "ranges", Key: []Type{IPv4Addr}, Interval: true}
	dynamic := &Set{Table: id, Name: "dynamic", Key: []Type{IPv4Addr}, Dynamic: true, Size: 9}
	verdicts := &Set{Table: id, Name: "verdicts", Key: []Type{InetProto}, Data: []Type{VerdictType}, Counter: true}
	slot := Element{Key: addr("10.0.0.1") + Proto(SCTP) + Port(80) + Slot(300), Data: addr("10.0.0.2") + Port(8080)}
	for want, got := range map[string]string{
		"add map ip t slots { typeof ip daddr . meta l4proto . th dport . numgen random mod 65535 : ip daddr . th dport; }": Change{Add, slots}.String(),
		"add set ip t dynamic { type ipv4_addr; flags dynamic,timeout; size 9; }":                                           Change{Add, dynamic}.String(),
		"delete set ip t dynamic": Change{Delete, dynamic}.String(),
		"add element ip t slots { 10.0.0.1 . sctp . 80 . 300 : 10.0.0.2 . 8080 }": Change{Add, Elements{slots, []Element{slot}}}.String(),
		"delete element ip t slots { 10.0.0.1 . sctp . 80 . 300 }":                Change{Delete, Elements{slots, []Element{slot}}}.String(),
		"add element ip t ranges { 10.0.0.0/8, 192.0.2.1, 10.0.0.1-10.0.0.3 }": Change{Add, Elements{ranges, []Element{
			{Key: Interval(netip.MustParsePrefix("10.9.9.9/8"))}, {Key: addr("192.0.2.1") + addr("192.0.2.1")},
			{Key: addr("10.0.0.1") + addr("10.0.0.3")}}}}.String(),
		"delete element ip t verdicts { tcp }\nadd element ip t verdicts { tcp counter packets 2 bytes 80 comment \"x/y\" : goto c }": Change{Replace,
			Elements{verdicts, []Element{{Key: Proto(TCP), Data: GotoChain("c").Value(), Comment: "x/y", Counter: &Counter{2, 80}}}}}.String(),
		"add chain ip t c { type nat hook output priority -100; policy accept; }": Change{Add, &Chain{Table: id, Name: "c", Hook: Output, Priority: -100}}.String(),
		"flush chain ip t c": Change{Delete, Rules{&Chain{Table: id, Name: "c"}}}.String(),
		"add rule ip t c ip saddr != @s drop\nadd rule ip t c reject": Change{Add, Rules{&Chain{Table: id, Name: "c", Rules: []Rule{
			{Match: []Match{In{Key: []Field{{Kind: SourceAddr}}, Set: "s", Not: true}}, Do: Verdict{Kind: Drop}}, {Do: Reject{}}}}}}.String(),
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// TestValidate: the error names the unresolved reference, or the element that does not fit.
func TestValidate(t *testing.T) {
	id := TableID{IPv4, "t"}
	port := []Field{{Kind: DestinationPort}}
	set := &Set{Table: id, Name: "s", Key: []Type{InetService}}
	verdicts := func(e Element) *Set {
		return &Set{Table: id, Name: "v", Key: []Type{InetService}, Data: []Type{VerdictType}, Elements: []Element{e}}
	}
	rule := func(r Rule) *Table {
		return &Table{TableID: id, Sets: []*Set{set}, Chains: []*Chain{{Table: id, Name: "c", Rules: []Rule{{Do: Reject{}}, r}}}}
	}
	for want, table := range map[string]*Table{
		`table ip t, chain c, rule 2: no set "x"`:                     rule(Rule{Do: VerdictMap{port, "x"}}),
		`table ip t, chain c, rule 2: no set "y"`:                     rule(Rule{Match: []Match{In{Key: port, Set: "y"}}, Do: Reject{}}),
		`table ip t, chain c, rule 2: no chain "z"`:                   rule(Rule{Do: GotoChain("z")}),
		`table ip t, set v: element 80 : goto z: no chain "z"`:        {TableID: id, Sets: []*Set{verdicts(Element{Key: Port(80), Data: GotoChain("z").Value()})}},
		`table ip t, set v: element 80 :  does not fit the data`:      {TableID: id, Sets: []*Set{verdicts(Element{Key: Port(80)})}},
		`table ip t, set v: element 0x06 : drop does not fit the key`: {TableID: id, Sets: []*Set{verdicts(Element{Key: Proto(TCP), Data: Verdict{Kind: Drop}.Value()})}},
		``: rule(Rule{Match: []Match{In{Key: port, Set: "s"}}, Do: GotoChain("c")}),
	} {
		got := ""
		if err := table.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}
