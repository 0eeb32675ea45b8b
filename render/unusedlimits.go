package render

import "nfproxy/nft"

// spareObjects is how many shared objects the kernel may have before unused ones are looked for.
const spareObjects = 64

// deleteUnusedLimits plans to delete the objects of limits for each client that no Service uses any more, when there are many: a user can
// change an annotation any number of times, to millions of different limits. Balancing chains stay, for there are few sizes. It looks at
// all Services, but only when the number of shared objects has doubled since it last did.
func (r *Ruleset) deleteUnusedLimits(p *plan) {
	if len(r.applied.objects)+len(p.objects) <= 2*r.applied.objectsKept+spareObjects {
		return
	}
	used := r.usedLimits(p)
	p.unused = make(map[sharedObjects]bool)
	for o := range r.applied.objects {
		if o.limit.Limit != (nft.Limit{}) && !used[o.limit] {
			p.unused[o] = true
		}
	}
	unused := common{objects: p.unused}
	for _, id := range r.node.Instance.TableIDs() {
		have := &nft.Table{TableID: id}
		for _, o := range unused.objectsOf(id.Family) {
			sets, chains := o.in(r.node.Instance.SchemaOf(id.Family))
			have.Sets, have.Chains = append(have.Sets, sets...), append(have.Chains, chains...)
		}
		p.batch.after = append(p.batch.after, nft.Diff([]*nft.Table{have}, []*nft.Table{{TableID: id}})...)
	}
}

// usedLimits returns the limits for each client to which verdicts lead once a plan is applied.
func (r *Ruleset) usedLimits(p *plan) map[clientLimit]bool {
	used := make(map[clientLimit]bool)
	next := make(map[*serviceState]objects, len(p.services))
	for _, s := range p.services {
		next[s.state] = s.next
	}
	for _, s := range r.services {
		o, planned := next[s]
		if !planned {
			o = s.applied
		}
		for _, m := range o.fragment {
			if !m.Set.IsVerdictMap() {
				continue
			}
			if l, ok := clientLimitOf(m.Set.Table.Family, m.Data.Verdict()); ok {
				used[l] = true
			}
		}
	}
	return used
}
