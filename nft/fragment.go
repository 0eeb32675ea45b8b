package nft

import (
	"cmp"
	"slices"
)

// Fragment is the part of the tables' elements that belongs to one owner, in Sort's order.
type Fragment []Member

// Member is an element together with the declaration of the set it is in.
type Member struct {
	Set *Set
	Element
}

// Sort puts the fragment in order of table, set and key.
func (f Fragment) Sort() { slices.SortFunc(f, Member.compare) }

func (m Member) compare(n Member) int {
	if c := m.Set.compare(n.Set); c != 0 {
		return c
	}
	return cmp.Compare(m.Key, n.Key)
}

// compare orders sets by table and name.
func (s *Set) compare(t *Set) int {
	if s == t {
		return 0
	}
	return cmp.Or(cmp.Compare(s.Table.Family, t.Table.Family), cmp.Compare(s.Table.Name, t.Table.Name),
		cmp.Compare(s.Name, t.Name))
}

// Edit gathers changes of elements and gives them out as few Changes: per set one for each operation.
// The zero Edit is empty and ready.
type Edit struct {
	sets  []*Set
	lists map[*Set]*[Replace + 1][]Element
}

// Record notes one change of one element.
func (e *Edit) Record(op Op, s *Set, el Element) {
	lists := e.of(s)
	lists[op] = append(lists[op], el)
}

// of returns the lists of one set.
func (e *Edit) of(s *Set) *[Replace + 1][]Element {
	if e.lists == nil {
		e.lists = make(map[*Set]*[Replace + 1][]Element)
	}
	lists := e.lists[s]
	if lists == nil {
		lists = new([Replace + 1][]Element)
		e.lists[s] = lists
		e.sets = append(e.sets, s)
	}
	return lists
}

// Elements notes what turns the elements have of a set into want. Both are in order of their keys.
func (e *Edit) Elements(s *Set, have, want []Element) {
	if lists := e.of(s); len(have) == 0 && lists[Add] == nil { // a first load: nothing to compare, and much to copy
		lists[Add] = want
		return
	}
	compare := func(a, b Element) int { return cmp.Compare(a.Key, b.Key) }
	merge(have, want, compare, Element.differs, func(op Op, el Element) { e.Record(op, s, el) })
}

// Diff says what turns the fragment into want, a member at a time.
func (f Fragment) Diff(want Fragment, record func(Op, Member)) {
	differs := func(a, b Member) bool { return a.differs(b.Element) }
	merge(f, want, Member.compare, differs, record)
}

// merge walks two sorted lists side by side: what only have holds is deleted, what only want holds is added, what both
// hold and differs is replaced.
func merge[T any](have, want []T, compare func(a, b T) int, differs func(a, b T) bool, record func(Op, T)) {
	for len(have) > 0 && len(want) > 0 {
		switch c := compare(have[0], want[0]); {
		case c < 0:
			record(Delete, have[0])
			have = have[1:]
		case c > 0:
			record(Add, want[0])
			want = want[1:]
		default:
			if differs(have[0], want[0]) {
				record(Replace, want[0])
			}
			have, want = have[1:], want[1:]
		}
	}
	for _, h := range have {
		record(Delete, h)
	}
	for _, w := range want {
		record(Add, w)
	}
}

// differs says whether two elements of one key are not the same. What they counted is no difference.
func (el Element) differs(other Element) bool {
	return el.Data != other.Data || el.Comment != other.Comment
}

// Changes returns what was noted since the last call: deletions first, then replacements, then additions.
func (e *Edit) Changes() []Change {
	slices.SortFunc(e.sets, (*Set).compare)
	var changes []Change
	for _, op := range []Op{Delete, Replace, Add} {
		for _, s := range e.sets {
			if list := e.lists[s][op]; len(list) > 0 {
				changes = append(changes, Change{op, Elements{s, list}})
			}
		}
	}
	*e = Edit{}
	return changes
}
