package nft

import "slices"

// Diff returns the changes that turn the tables have into want, in an order one transaction accepts: what is no longer
// referred to goes before what it refers to, and what is referred to comes first. Tables that are in neither list are
// not touched. Elements of dynamic sets are the packets', not ours: only the declarations are compared.
func Diff(have, want []*Table) []Change {
	var d diff
	for _, h := range have {
		if find(want, h.TableID) == nil {
			d.tables = append(d.tables, Change{Delete, h})
		}
	}
	for _, w := range want {
		h := find(have, w.TableID)
		if h != nil && !h.canBecome(w) {
			d.tables = append(d.tables, Change{Delete, h})
			h = nil
		}
		if h == nil {
			h = &Table{TableID: w.TableID}
			d.tables = append(d.tables, Change{Add, w})
		}
		d.renewed = nil
		d.sets(h, w)
		d.chains(h, w)
	}
	return d.changes()
}

func find(tables []*Table, id TableID) *Table {
	i := slices.IndexFunc(tables, func(t *Table) bool { return t.TableID == id })
	if i < 0 {
		return nil
	}
	return tables[i]
}

// canBecome says whether changes inside the table are enough. A table's comment and the hook of a chain cannot be
// changed: such a table is replaced whole, in the same transaction. It happens with another schema, or when somebody
// meddled.
func (t *Table) canBecome(want *Table) bool {
	if t.Comment != want.Comment {
		return false
	}
	for _, w := range want.Chains {
		if h := t.Chain(w.Name); h != nil && (h.Hook != w.Hook || h.Priority != w.Priority) {
			return false
		}
	}
	return true
}

// diff holds the changes by the stage of the transaction they belong to.
type diff struct {
	renewed   []string // sets of the table at hand that go and come with another declaration
	tables    []Change // added and deleted tables
	flushes   []Change // chains whose rules change or go
	dropped   []Change // sets that go
	added     []Change // sets and chains, empty
	rules     []Change
	edit      Edit
	abandoned []Change // chains nothing refers to any more
}

// changes puts the stages in order. Deletions of elements come before sets go, since the chains their verdicts name may
// be deleted; chains that go come last, after the replaced elements let go of them.
func (d *diff) changes() []Change {
	elements := d.edit.Changes()
	n := slices.IndexFunc(elements, func(c Change) bool { return c.Op != Delete })
	if n < 0 {
		n = len(elements)
	}
	return slices.Concat(d.tables, d.flushes, elements[:n], d.dropped, d.added, d.rules, elements[n:], d.abandoned)
}

func (d *diff) sets(have, want *Table) {
	for _, h := range have.Sets {
		if want.Set(h.Name) == nil {
			d.dropped = append(d.dropped, Change{Delete, h})
		}
	}
	for _, w := range want.Sets {
		h := have.Set(w.Name)
		if h != nil && !h.sameDeclaration(w) {
			d.dropped = append(d.dropped, Change{Delete, h})
			d.renewed = append(d.renewed, w.Name)
			h = nil
		}
		if h == nil {
			d.added = append(d.added, Change{Add, w})
			h = &Set{}
		}
		if !w.Dynamic {
			d.edit.Elements(w, h.Elements, w.Elements)
		}
	}
}

func (s *Set) sameDeclaration(t *Set) bool {
	return s.keyword() == t.keyword() && slices.Equal(s.declaration(), t.declaration())
}

func (d *diff) chains(have, want *Table) {
	for _, h := range have.Chains {
		if want.Chain(h.Name) == nil {
			d.flush(h)
			d.abandoned = append(d.abandoned, Change{Delete, h})
		}
	}
	for _, w := range want.Chains {
		h := have.Chain(w.Name)
		if h == nil {
			d.added = append(d.added, Change{Add, w})
			h = &Chain{}
		}
		d.chainRules(h, w)
	}
}

// chainRules compares whole chains: their text is all there is to a rule, and there are few of them.
func (d *diff) chainRules(have, want *Chain) {
	same := func(a, b Rule) bool { return a.same(b, want.Table.Family) && !a.refersTo(d.renewed) }
	if slices.EqualFunc(have.Rules, want.Rules, same) {
		return
	}
	d.flush(have)
	if len(want.Rules) > 0 {
		d.rules = append(d.rules, Change{Add, Rules{want}})
	}
}

func (d *diff) flush(c *Chain) {
	if len(c.Rules) > 0 {
		d.flushes = append(d.flushes, Change{Delete, Rules{c}})
	}
}
