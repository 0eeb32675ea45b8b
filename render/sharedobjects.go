package render

import (
	"cmp"
	"slices"
	"strings"

	"nfproxy/nft"
)

// sharedObjects identifies chains, and sets that go with them, that Services share and that exist once a verdict leads there: those of a
// BalancingChain or of a clientLimit. The other one is the zero value.
type sharedObjects struct {
	balancing BalancingChain
	limit     clientLimit
}

// sharedObjectsOf returns the objects that a verdict of a family's table leads to. It returns false for any other verdict.
func sharedObjectsOf(f nft.Family, v nft.Verdict) (sharedObjects, bool) {
	if b, ok := BalancingChainOf(f, v); ok {
		return sharedObjects{balancing: b}, true
	}
	l, ok := clientLimitOf(f, v)
	return sharedObjects{limit: l}, ok
}

// base returns the objects to which the chain of o leads: from a limit for each client to the limit for all. It returns false if there are
// none.
func (o sharedObjects) base() (sharedObjects, bool) {
	return sharedObjects{limit: clientLimit{family: o.limit.family}}, o.limit.Limit != nft.Limit{}
}

func (o sharedObjects) family() nft.Family { return cmp.Or(o.balancing.Family, o.limit.family) }

// name returns the name of the chain that verdicts go to.
func (o sharedObjects) name() string {
	if o.limit.family != 0 {
		return o.limit.chainName()
	}
	return o.balancing.Name()
}

// onlyByAnnotation reports whether the objects exist only for Services that ask for them by an annotation.
func (o sharedObjects) onlyByAnnotation() bool {
	return o.limit.family != 0 || o.balancing.Hashing != NoHashing
}

// has reports whether one of the objects has a name.
func (o sharedObjects) has(name string) bool {
	sets, chains := o.in(SchemaOf(o.family()))
	return slices.ContainsFunc(sets, func(s *nft.Set) bool { return s.Name == name }) ||
		slices.ContainsFunc(chains, func(c *nft.Chain) bool { return c.Name == name })
}

// in returns the objects in the table of a schema, chains with their rules.
func (o sharedObjects) in(s *Schema) (sets []*nft.Set, chains []*nft.Chain) {
	if o.limit.family != 0 {
		sets, chain := o.limit.objects(s)
		return sets, []*nft.Chain{chain}
	}
	return nil, s.balancingChains(o.balancing)
}

// additions returns the changes that add the objects.
func (o sharedObjects) additions(s *Schema) (changes []nft.Change) {
	sets, chains := o.in(s)
	for _, set := range sets {
		changes = append(changes, nft.Change{Op: nft.Add, Object: set})
	}
	for _, c := range chains {
		changes = append(changes, nft.Change{Op: nft.Add, Object: c}, nft.Change{Op: nft.Add, Object: nft.Rules{Chain: c}})
	}
	return changes
}

// ensureObjects plans the objects that a verdict leads to, as far as the kernel does not have them.
func (r *Ruleset) ensureObjects(f nft.Family, v nft.Verdict, p *plan) {
	if o, ok := sharedObjectsOf(f, v); ok {
		r.ensure(o, p)
	}
}

func (r *Ruleset) ensure(o sharedObjects, p *plan) {
	if p.objects[o] || !p.full && r.applied.objects[o] {
		return
	}
	if base, ok := o.base(); ok {
		r.ensure(base, p)
	}
	if p.objects == nil {
		p.objects = make(map[sharedObjects]bool)
	}
	p.objects[o] = true
	p.batch.before = append(p.batch.before, o.additions(r.node.Instance.SchemaOf(o.family()))...)
}

// ensureObjectsOf does the same for the verdicts in the dedicated chains of a Service.
func (r *Ruleset) ensureObjectsOf(o *DedicatedObjects, p *plan) {
	o.verdicts(func(f nft.Family, v nft.Verdict) { r.ensureObjects(f, v, p) })
}

// verdicts calls each for the verdicts in the dedicated chains of a Service, of which o is nil if there are none.
func (o *DedicatedObjects) verdicts(each func(nft.Family, nft.Verdict)) {
	if o == nil {
		return
	}
	for _, c := range o.chains {
		for _, rule := range c.Rules {
			if v, ok := rule.Do.(nft.Verdict); ok {
				each(c.Table.Family, v)
			}
		}
	}
}

// objectsOf returns the shared objects of a family, in order.
func (c common) objectsOf(f nft.Family) []sharedObjects {
	var all []sharedObjects
	for o := range c.objects {
		if o.family() == f {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b sharedObjects) int {
		if a.limit.family == 0 && b.limit.family == 0 && a.balancing.Local == b.balancing.Local {
			return cmp.Compare(a.balancing.Size, b.balancing.Size)
		}
		return strings.Compare(a.name(), b.name())
	})
	return all
}

// WithoutUnusedObjects returns changes without those that only delete unused shared objects: these do no harm and may be needed again.
func WithoutUnusedObjects(changes []nft.Change) []nft.Change {
	kept := make(map[string]bool) // chains that get new rules
	for _, c := range changes {
		if rules, ok := c.Object.(nft.Rules); ok && c.Op == nft.Add {
			kept[rules.Chain.Table.String()+rules.Chain.Name] = true
		}
	}
	return slices.DeleteFunc(changes, func(c nft.Change) bool {
		if set, ok := c.Object.(*nft.Set); ok {
			return c.Op == nft.Delete && isOfLimits(set.Name)
		}
		chain := c.Chain()
		if chain == nil || c.Op != nft.Delete || kept[chain.Table.String()+chain.Name] {
			return false
		}
		return IsBalancing(chain.Name) || IsLimiting(chain.Name)
	})
}
