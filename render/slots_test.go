package render

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
)

// TestSlots: endpoints keep their slots; free slots are filled by endpoints from the tail, then by new ones.
func TestSlots(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	for _, step := range []struct{ endpoints, want string }{
		{"a b c d", "a b c d"},
		{"a b c d e", "a b c d e"},
		{"b c d e", "e b c d"},     // a's slot goes to the last endpoint
		{"b c d e f", "e b c d f"}, // a new endpoint at the end
		{"a b c d f", "a b c d f"}, // replaced in place
		{"a", "a"},
		{"0 a b", "a 0 b"},
		{"x y z", "x y z"},
		{"", ""},
		{"b a", "a b"},
	} {
		s := testService("s", 1, "10.96.0.1:80")
		for name := range strings.FieldsSeq(step.endpoints) {
			e := Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, name[0]}), 1), Ready: true}
			s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, e)
		}
		r.Update(Update{Services: []Service{s}})
		converge(r)
		var got []string
		for _, e := range r.Tables()[0].Set("endpoints").Elements {
			got = append(got, string(rune(e.Data[3])))
		}
		if strings.Join(got, " ") != step.want {
			t.Errorf("%q has the slots %q, want %q", step.endpoints, got, step.want)
		}
	}
}

// TestReslot: what is known of the installed slots and what is read from tables lead to the same slots, with every endpoint once.
func TestReslot(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() nft.Value { // sorted
		var all []Endpoint
		for i := range 12 {
			if r.IntN(2) == 0 {
				all = append(all, Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), uint16(i))})
			}
		}
		return pack(all)
	}
	have := slots{set: SchemaOf(nft.IPv4).Endpoints, frontend: Frontend{netip.MustParseAddrPort("10.96.0.1:80"), nft.TCP}.Key()}
	moved := 0
	for range 10_000 {
		want := slots{set: have.set, frontend: have.frontend, sorted: random()}
		installed := elementsOf(have)
		got := have.reslot(want.sorted)
		if full := want.assign(installed); got != full {
			t.Fatalf("%x with the wanted endpoints %x has the slots %x, read from tables %x", have.endpoints, want.sorted, got, full)
		}
		all := packed{got, have.width()}.values()
		if slices.Sort(all); join(all) != want.sorted {
			t.Fatalf("the slots %x do not have the endpoints %x", got, want.sorted)
		}
		after := slots{set: have.set, frontend: have.frontend, endpoints: got, sorted: want.sorted}
		var bySlots, byElements nft.Edit
		have.diff(after, func(op nft.Op, m nft.Member) { bySlots.Record(op, m.Set, m.Element) })
		byElements.Elements(have.set, installed, elementsOf(after))
		if a, b := changesText(bySlots.Changes()), changesText(byElements.Changes()); a != b {
			t.Fatalf("the changes are\n%s\nby elements\n%s", a, b)
		}
		if got != want.sorted {
			moved++
		}
		have = after
	}
	if moved < 5_000 {
		t.Errorf("only %d times the slots were not in the order of the addresses", moved)
	}
}

// elementsOf returns the elements of slots.
func elementsOf(s slots) (all []nft.Element) {
	for m := range s.members() {
		all = append(all, m.Element)
	}
	return all
}
