package nft

import "slices"

// Diff returns the changes that turn the tables have into the tables want, in an order that one transaction accepts: an
// object is deleted after the last reference to it, and added before the first. Tables in neither list are not touched.
// Of dynamic sets Diff compares only the declarations, because packets add and refresh their elements.
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

// canBecome reports whether changes inside the table are enough. The comment of a table and the hook of a chain cannot
// be changed: if one of them differs, the whole table is replaced in the same transaction. The same is done if another
// program has made the table dormant. This happens when the schema changes, or after another program has changed a table.
func (t *Table) canBecome(want *Table) bool {
	if t.Comment != want.Comment || t.Dormant != want.Dormant {
		return false
	}
	for _, w := range want.Chains {
		if h := t.Chain(w.Name); h != nil && (h.Hook != w.Hook || h.Priority != w.Priority) {
			return false
		}
	}
	return true
}

// diff collects changes by the stage of the transaction to which they belong.
type diff struct {
	renewed   []string // sets of the current table that are deleted and added with another declaration
	tables    []Change // added and deleted tables
	flushes   []Change // chains whose rules are replaced or deleted
	dropped   []Change // deleted sets
	added     []Change // sets and chains, empty
	rules     []Change
	edit      Edit
	abandoned []Change // deleted chains
}

// changes returns the stages in order. Elements are deleted before sets. Chains are deleted last, when neither deleted
// nor replaced elements refer to them any more.
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
		if want.Set(h.Name) == nil && !h.Anonymous {
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
		if want.Chain(h.Name) == nil && !h.Anonymous {
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

// chainRules compares whole chains and replaces all rules of a chain if one differs: there are few rules.
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
