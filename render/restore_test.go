package render

import (
	"slices"
	"testing"

	"nfproxy/nft"
)

// restorable returns every applied element of the sets whose elements can be restored, by its set in the schema.
func restorable(r *Ruleset) map[*nft.Set][]nft.Element {
	all := make(map[*nft.Set][]nft.Element)
	for _, t := range r.Tables() {
		for _, s := range (Instance{}).RestorableSets() {
			if have := t.Set(s.Name); s.Table == t.TableID && have != nil {
				all[s] = have.Elements
			}
		}
	}
	return all
}

// TestRestore: whatever another program did to an element, Restore returns the one change that undoes it: to elements of one
// Service, of several Services and of a contested frontend, and although Updates wait to be planned.
func TestRestore(t *testing.T) {
	r := NewRuleset(Node{Name: "n", UnservedPorts: DropUnserved, AnswerPing: true})
	shared := testService("shared", 1, "10.96.0.1:81", "10.0.0.1:80", "10.0.0.2:80")
	removed, changed := testService("removed", 1, "10.96.0.2:80", "10.0.0.3:80"), testService("changed", 1, "10.96.0.3:80", "10.0.0.4:80")
	r.Update(Update{Node: r.node, Services: []Service{
		testService("web", 1, "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80"), shared, removed, changed,
		testService("rival", 2, "10.96.0.1:80", "10.0.0.9:80"), testService("v6", 1, "[fd00::1]:80", "[fd01::1]:80")}})
	reconcile(r, nil)
	changed.Ports[0].Endpoints[0].Ready = false
	r.Update(Update{Node: r.node, Removed: []ServiceName{removed.ServiceName}, Services: []Service{changed}})

	elements := 0
	for s, list := range restorable(r) {
		elements += len(list)
		for _, e := range list {
			key, other := nft.Elements{Set: s, List: []nft.Element{{Key: e.Key}}}, nft.Element{Key: e.Key, Data: e.Data, Comment: "foreign"}
			for _, c := range []struct {
				what  string
				found []nft.Element
				want  []nft.Change
			}{
				{"deleted", nil, []nft.Change{{Op: nft.Add, Object: nft.Elements{Set: s, List: []nft.Element{e}}}}},
				{"replaced", []nft.Element{other}, []nft.Change{{Op: nft.Replace, Object: nft.Elements{Set: s, List: []nft.Element{e}}}}},
				{"deleted and added", []nft.Element{e}, nil},
			} {
				got := r.Restore(key, c.found)
				if !slices.EqualFunc(got, c.want, func(a, b nft.Change) bool { return a.Op == b.Op && a.String() == b.String() }) {
					t.Errorf("element %x of %s was %s; Restore returns %v, want %v", e.Key, s.Name, c.what, got, c.want)
				}
			}
			foreign := nft.Element{Key: e.Key[:len(e.Key)-1] + "\x07", Data: e.Data}
			got := r.Restore(nft.Elements{Set: s, List: []nft.Element{{Key: foreign.Key}, {Key: foreign.Key}}}, []nft.Element{foreign})
			if len(got) != 1 || got[0].Op != nft.Delete {
				t.Errorf("an element was added to %s; Restore returns %v", s.Name, got)
			}
		}
	}
	if elements < 20 {
		t.Errorf("only %d elements", elements)
	}
	if changes := converge(r); len(changes) == 0 {
		t.Error("the Updates are not planned any more")
	}
}
