package nft

import (
	"cmp"
	"slices"
)

// Fragment holds the elements of one owner, in whatever tables and sets they are, in Sort's order.
type Fragment []Member

// Member is an element together with the declaration of its set.
type Member struct {
	Set *Set
	Element
}

// Sort sorts the fragment by table, set and key.
func (f Fragment) Sort() { slices.SortFunc(f, Member.compare) }

func (m Member) compare(n Member) int {
	if c := m.Set.Compare(n.Set); c != 0 {
		return c
	}
	return cmp.Compare(m.Key, n.Key)
}

// Compare orders sets by table and name.
func (s *Set) Compare(t *Set) int {
	if s == t {
		return 0
	}
	return cmp.Or(cmp.Compare(s.Table.Family, t.Table.Family), cmp.Compare(s.Table.Name, t.Table.Name),
		cmp.Compare(s.Name, t.Name))
}

// Edit collects changes of single elements and returns them as few Changes: one for each set and operation.
// The zero Edit is empty and ready to use.
type Edit struct {
	sets  []*Set
	lists map[*Set]*[Replace + 1][]Element
}

// Record adds one change of one element.
func (e *Edit) Record(op Op, s *Set, el Element) {
	lists := e.of(s)
	lists[op] = append(lists[op], el)
}

// of returns the lists of one set, indexed by Op.
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

// Elements records the changes that turn the elements have of a set into want. Both lists are sorted by key.
func (e *Edit) Elements(s *Set, have, want []Element) {
	if lists := e.of(s); len(have) == 0 && lists[Add] == nil { // a first load: adopt the list, which can be large, without copying it
		lists[Add] = want
		return
	}
	compare := func(a, b Element) int { return cmp.Compare(a.Key, b.Key) }
	merge(have, want, compare, Element.differs, func(op Op, el Element) { e.Record(op, s, el) })
}

// Diff calls record for each change that turns the fragment into want.
func (f Fragment) Diff(want Fragment, record func(Op, Member)) {
	differs := func(a, b Member) bool { return a.differs(b.Element) }
	merge(f, want, Member.compare, differs, record)
}

// merge walks two sorted lists side by side. It records as deleted what is only in have, as added what is only in want,
// and as replaced what is in both and differs.
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

// differs reports whether two elements of one key have different data or comments. Counters and expiration times are
// not compared.
func (el Element) differs(other Element) bool {
	return el.Data != other.Data || el.Comment != other.Comment
}

// Changes returns what was recorded since the last call: deletions first, then replacements, then additions.
func (e *Edit) Changes() []Change {
	slices.SortFunc(e.sets, (*Set).Compare)
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
