package nft

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// FuzzDiff: applied to values as strictly as the kernel would, Diff(a, b) turns a into b, and Diff(b, b) is empty.
func FuzzDiff(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed, seed+1)
	}
	f.Fuzz(func(t *testing.T, from, to uint64) {
		a, b := randomTables(from), randomTables(to)
		state := clone(a)
		for _, c := range Diff(a, b) {
			var err error
			if state, err = carryOut(state, c); err != nil {
				t.Fatalf("%s: %v", c, err)
			}
		}
		if got, want := text(state), text(b); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if again := Diff(b, clone(b)); len(again) > 0 {
			t.Fatalf("Diff of equal tables: %v", again)
		}
	})
}

func randomTables(seed uint64) []*Table {
	r := rand.New(rand.NewPCG(seed, 1))
	var tables []*Table
	for _, f := range []Family{IPv4, IPv6} {
		if r.IntN(5) == 0 {
			continue
		}
		tables = append(tables, randomTable(r, TableID{f, "t"}))
	}
	return tables
}

func randomTable(r *rand.Rand, id TableID) *Table {
	t := &Table{TableID: id, Comment: fmt.Sprint("schema ", max(0, r.IntN(5)-3))}
	var names []string
	for i := range r.IntN(5) {
		c := &Chain{Table: id, Name: fmt.Sprint("chain-", i), Hook: Hook(max(0, r.IntN(5)-2)), Priority: int32(r.IntN(2))}
		t.Chains = append(t.Chains, c)
		if c.Hook == NoHook {
			names = append(names, c.Name)
		}
	}
	for i := range r.IntN(4) {
		s := &Set{Table: id, Name: fmt.Sprint("set-", i), Key: []Type{InetService}, Counter: r.IntN(2) == 0}
		if r.IntN(2) == 0 {
			s.Data = []Type{VerdictType}
		}
		for port := range uint16(6) {
			if r.IntN(2) == 0 {
				continue
			}
			e := Element{Key: Port(port), Comment: []string{"", "x"}[r.IntN(2)]}
			if s.Data != nil {
				e.Data = randomVerdict(r, names).Value()
			}
			s.Elements = append(s.Elements, e)
		}
		t.Sets = append(t.Sets, s)
		for _, c := range t.Chains {
			if r.IntN(2) == 0 {
				c.Rules = append(c.Rules, randomRule(r, s, names))
			}
		}
	}
	return t
}

func randomVerdict(r *rand.Rand, names []string) Verdict {
	if len(names) == 0 || r.IntN(2) == 0 {
		return Verdict{Kind: Drop}
	}
	return GotoChain(names[r.IntN(len(names))])
}

func randomRule(r *rand.Rand, s *Set, names []string) Rule {
	key := []Field{{Kind: DestinationPort}}
	if s.Data != nil {
		return Rule{Do: VerdictMap{key, s.Name}}
	}
	return Rule{Match: []Match{In{Key: key, Set: s.Name}}, Do: randomVerdict(r, names)}
}

// errExistence is the error for adding what exists and for deleting or replacing what does not.
var errExistence = errors.New("exists already, or does not exist")

// carryOut applies a change to values. It refuses what the kernel would refuse.
func carryOut(tables []*Table, c Change) ([]*Table, error) {
	if t, ok := c.Object.(*Table); ok {
		if (find(tables, t.TableID) != nil) != (c.Op == Delete) {
			return nil, errExistence
		}
		if c.Op == Add {
			return append(tables, &Table{TableID: t.TableID, Comment: t.Comment}), nil
		}
		return slices.DeleteFunc(tables, func(u *Table) bool { return u.TableID == t.TableID }), nil
	}
	switch o := c.Object.(type) {
	case *Set:
		return tables, find(tables, o.Table).carryOutSet(c.Op, o)
	case *Chain:
		return tables, find(tables, o.Table).carryOutChain(c.Op, o)
	case Rules:
		t := find(tables, o.Chain.Table)
		to := t.Chain(o.Chain.Name)
		if to.Rules = nil; c.Op == Add {
			to.Rules = o.Chain.Rules
		}
		return tables, t.Validate()
	case Elements:
		t := find(tables, o.Set.Table)
		return tables, t.carryOutElements(c.Op, o)
	}
	return nil, fmt.Errorf("unexpected object %T", c.Object)
}

func (t *Table) carryOutSet(op Op, s *Set) error {
	have := t.Set(s.Name)
	switch {
	case (have != nil) != (op == Delete):
		return errExistence
	case op == Delete:
		t.Sets = slices.DeleteFunc(t.Sets, func(u *Set) bool { return u == have })
		return t.Validate()
	}
	added := *s
	added.Elements = nil
	t.Sets = append(t.Sets, &added)
	return nil
}

func (t *Table) carryOutChain(op Op, c *Chain) error {
	have := t.Chain(c.Name)
	switch {
	case (have != nil) != (op == Delete):
		return errExistence
	case op == Delete && len(have.Rules) > 0:
		return errors.New("the chain has rules")
	case op == Delete:
		t.Chains = slices.DeleteFunc(t.Chains, func(u *Chain) bool { return u == have })
		return t.Validate()
	}
	added := *c
	added.Rules = nil
	t.Chains = append(t.Chains, &added)
	return nil
}

func (t *Table) carryOutElements(op Op, e Elements) error {
	s := t.Set(e.Set.Name)
	for _, el := range e.List {
		_, exists := s.Lookup(el.Key)
		if exists != (op != Add) {
			return fmt.Errorf("element %s: %w", s.elementText(el), errExistence)
		}
		s.Elements = slices.DeleteFunc(s.Elements, func(x Element) bool { return x.Key == el.Key })
		if op != Delete {
			s.Elements = append(s.Elements, el)
		}
		s.Sort()
	}
	return t.Validate()
}

func clone(tables []*Table) []*Table {
	var all []*Table
	for _, t := range tables {
		u := &Table{TableID: t.TableID, Comment: t.Comment}
		for _, s := range t.Sets {
			v := *s
			v.Elements = slices.Clone(s.Elements)
			u.Sets = append(u.Sets, &v)
		}
		for _, c := range t.Chains {
			v := *c
			u.Chains = append(u.Chains, &v)
		}
		all = append(all, u)
	}
	return all
}

// text prints tables independently of the order of the tables, sets and chains.
func text(tables []*Table) string {
	var parts []string
	for _, t := range clone(tables) {
		slices.SortFunc(t.Sets, func(a, b *Set) int { return strings.Compare(a.Name, b.Name) })
		slices.SortFunc(t.Chains, func(a, b *Chain) int { return strings.Compare(a.Name, b.Name) })
		parts = append(parts, t.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, "")
}

// TestDynamicElements: Diff leaves the elements of a dynamic set alone.
func TestDynamicElements(t *testing.T) {
	id := TableID{IPv4, "t"}
	set := func(elements ...Element) []*Table {
		return []*Table{{TableID: id, Sets: []*Set{{Table: id, Name: "s", Key: []Type{IPv4Addr}, Dynamic: true, Elements: elements}}}}
	}
	added := Element{Key: Addr(netip.MustParseAddr("10.0.0.1"))}
	if got := Diff(set(added), set()); len(got) > 0 {
		t.Errorf("%v", got)
	}
}
