package render

import (
	"iter"
	"slices"
	"strings"
	"sync"

	"nfproxy/nft"
)

// Tables returns the tables of a cluster as an empty kernel gets them.
func Tables(u Update) []*nft.Table {
	r := NewRuleset(u.Node)
	r.Update(u)
	r.Observe(nil)
	r.Plan()
	r.Accept()
	return r.Tables()
}

// Tables returns the tables of the applied stage.
func (r *Ruleset) Tables() []*nft.Table {
	return r.applied.tables(func(yield func(objects) bool) {
		for _, s := range r.services {
			if !yield(s.applied) {
				return
			}
		}
	})
}

// tables returns the tables with the common part and the objects of the Services.
func (c common) tables(services iter.Seq[objects]) []*nft.Table {
	tables := Skeleton(c.node)
	sets := make(map[*nft.Set]*nft.Set) // by the set in the schema
	for _, t := range tables {
		sc := c.node.Instance.SchemaOf(t.Family)
		for _, s := range sc.ofServices(c.node) {
			sets[s] = t.Set(s.Name)
		}
		for _, o := range c.objectsOf(t.Family) {
			added, chains := o.in(sc)
			for _, s := range added {
				declared := *s
				t.Sets, sets[s] = append(t.Sets, &declared), &declared
			}
			t.Chains = append(t.Chains, chains...)
		}
		addDedicated(t, services)
	}
	fillSets(sets, services)
	return tables
}

// addDedicated adds the dedicated objects of Services to a table, sorted by name.
func addDedicated(t *nft.Table, services iter.Seq[objects]) {
	for o := range services {
		if o.dedicated != nil {
			d := o.dedicated.table(t.TableID)
			t.Sets, t.Chains = append(t.Sets, d.Sets...), append(t.Chains, d.Chains...)
		}
	}
	slices.SortStableFunc(t.Sets, func(a, b *nft.Set) int { return strings.Compare(DedicatedName(a.Name), DedicatedName(b.Name)) })
	slices.SortStableFunc(t.Chains, func(a, b *nft.Chain) int {
		return strings.Compare(DedicatedName(a.Name), DedicatedName(b.Name))
	})
}

// fillSets adds the elements of Services to the sets of the tables. Elements that several Services have are added once.
func fillSets(sets map[*nft.Set]*nft.Set, services iter.Seq[objects]) {
	sizes := make(map[*nft.Set]int, len(sets))
	for o := range services {
		for _, m := range o.fragment {
			sizes[m.Set]++
		}
		for _, s := range o.slots {
			sizes[s.set] += s.bySlot().len()
		}
	}
	for declaration, s := range sets {
		s.Elements = slices.Grow(s.Elements, sizes[declaration])
	}
	for o := range services {
		for m := range o.members {
			sets[m.Set].Elements = append(sets[m.Set].Elements, m.Element)
		}
	}
	var sorts sync.WaitGroup
	for _, s := range sets {
		sorts.Go(func() {
			s.Sort()
			s.Elements = slices.CompactFunc(s.Elements, func(a, b nft.Element) bool { return a.Key == b.Key })
		})
	}
	sorts.Wait()
}
