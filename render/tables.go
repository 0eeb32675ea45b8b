package render

import (
	"slices"
	"strings"

	"nfproxy/nft"
)

// Tables returns the tables as they are with what Changes and Reconcile gave out so far, whole.
func (r *Ruleset) Tables() []*nft.Table {
	tables := Skeleton(r.node)
	sets := make(map[*nft.Set]*nft.Set) // from declarations to the tables' own
	for _, t := range tables {
		sc := SchemaOf(t.Family)
		for _, s := range sc.ofServices() {
			sets[s] = t.Set(s.Name)
		}
		for _, b := range r.balancers(t.Family) {
			t.Chains = append(t.Chains, sc.loadBalancer(b))
		}
	}
	for _, t := range tables {
		for _, inst := range r.services {
			if inst.installed.own != nil {
				own := inst.installed.own.table(t.TableID)
				t.Sets, t.Chains = append(t.Sets, own.Sets...), append(t.Chains, own.Chains...)
			}
		}
		slices.SortStableFunc(t.Sets, func(a, b *nft.Set) int { return strings.Compare(DedicatedName(a.Name), DedicatedName(b.Name)) })
		slices.SortStableFunc(t.Chains, func(a, b *nft.Chain) int { return strings.Compare(DedicatedName(a.Name), DedicatedName(b.Name)) })
	}
	sizes := make(map[*nft.Set]int, len(sets))
	for _, inst := range r.services {
		for _, m := range inst.installed.fragment {
			sizes[m.Set]++
		}
	}
	for declaration, s := range sets {
		s.Elements = slices.Grow(s.Elements, sizes[declaration])
	}
	for _, inst := range r.services {
		for _, m := range inst.installed.fragment {
			sets[m.Set].Elements = append(sets[m.Set].Elements, m.Element)
		}
	}
	for _, s := range sets {
		s.Sort()
		s.Elements = slices.CompactFunc(s.Elements, func(a, b nft.Element) bool { return a.Key == b.Key })
	}
	return tables
}
