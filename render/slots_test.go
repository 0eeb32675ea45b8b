package render

import (
	"net/netip"
	"strings"
	"testing"
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
