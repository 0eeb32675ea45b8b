package render

import (
	"slices"
	"strings"

	"nfproxy/nft"
)

// balancingChain returns a balancing chain with its rules.
//
// A commit can come between two lookups of one packet: services sent the packet here by the old number of endpoints, and now the
// frontend has fewer. The slot that was drawn may be gone, but slot 0 exists as long as any does. If the packet passed
// untranslated, conntrack would keep the connection untranslated for good. If it is dropped, its retransmission starts anew.
// See docs/design/0002-fallback-slot.md.
func (s *Schema) balancingChain(b BalancingChain) *nft.Chain {
	endpoints := s.Endpoints
	if b.Local {
		endpoints = s.LocalEndpoints
	}
	draw := func(mod int) nft.Rule {
		key := append(slices.Clone(frontend), nft.Field{Kind: nft.RandomNumber, Mod: uint32(mod)})
		return rule(nft.DNAT{Key: key, Map: endpoints.Name})
	}
	rules := []nft.Rule{draw(b.Endpoints)}
	if b.Endpoints > 1 {
		rules = append(rules, draw(1))
	}
	return s.chain(b.Name(), append(rules, rule(nft.Verdict{Kind: nft.Drop}))...)
}

// spareChains is the number of balancing chains that may be unused before dropUnusedChains looks for them.
const spareChains = 32

// dropUnusedChains plans the deletion of the balancing chains that no Service uses any more. A few stay: otherwise most changes
// of an endpoint count would add and delete a chain, and each would have to look at all Services.
func (r *Ruleset) dropUnusedChains(p *plan) {
	if len(r.applied.chains)+len(p.chains) <= 2*r.applied.usedChains+spareChains {
		return
	}
	planned := make(map[*serviceState]bool, len(p.services))
	used := make(map[BalancingChain]bool)
	for _, ps := range p.services {
		planned[ps.state] = true
		ps.next.useChains(used)
	}
	for _, s := range r.services {
		if !planned[s] {
			s.applied.useChains(used)
		}
	}
	p.usedChains = len(used)
	for b := range r.applied.chains {
		if used[b] {
			continue
		}
		c := SchemaOf(b.Family).balancingChain(b)
		p.batch.after = append(p.batch.after, nft.Change{Op: nft.Delete, Object: nft.Rules{Chain: c}}, nft.Change{Op: nft.Delete, Object: c})
		p.dropped = append(p.dropped, b)
	}
}

// useChains adds the balancing chains that the objects refer to.
func (o objects) useChains(used map[BalancingChain]bool) {
	use := func(f nft.Family, v nft.Verdict) {
		if b, ok := BalancingChainOf(f, v); ok {
			used[b] = true
		}
	}
	for _, m := range o.fragment {
		if m.Set.IsVerdictMap() {
			use(m.Set.Table.Family, m.Data.Verdict())
		}
	}
	o.dedicated.verdicts(use)
}

// ensureChain plans the balancing chain that a verdict goes to, if the kernel does not have it.
func (r *Ruleset) ensureChain(f nft.Family, v nft.Verdict, p *plan) {
	b, ok := BalancingChainOf(f, v)
	if !ok || p.chains[b] || !p.full && r.applied.chains[b] {
		return
	}
	if p.chains == nil {
		p.chains = make(map[BalancingChain]bool)
	}
	p.chains[b] = true
	c := SchemaOf(b.Family).balancingChain(b)
	p.batch.before = append(p.batch.before, nft.Change{Op: nft.Add, Object: c}, nft.Change{Op: nft.Add, Object: nft.Rules{Chain: c}})
}

// ensureChainsOf does the same for the verdicts in the dedicated chains of a Service.
func (r *Ruleset) ensureChainsOf(o *DedicatedObjects, p *plan) {
	o.verdicts(func(f nft.Family, v nft.Verdict) { r.ensureChain(f, v, p) })
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

// balancingChains returns the balancing chains of a family, in order.
func (c common) balancingChains(f nft.Family) []BalancingChain {
	var all []BalancingChain
	for b := range c.chains {
		if b.Family == f {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b BalancingChain) int {
		if a.Local != b.Local {
			return strings.Compare(a.Name(), b.Name())
		}
		return a.Endpoints - b.Endpoints
	})
	return all
}

// WithoutUnusedChains returns changes without those that only delete unused balancing chains: such chains do no harm and may be
// needed again.
func WithoutUnusedChains(changes []nft.Change) []nft.Change {
	kept := make(map[string]bool) // chains that get new rules
	for _, c := range changes {
		if rules, ok := c.Object.(nft.Rules); ok && c.Op == nft.Add {
			kept[rules.Chain.Table.String()+rules.Chain.Name] = true
		}
	}
	return slices.DeleteFunc(changes, func(c nft.Change) bool {
		chain := c.Chain()
		if chain == nil || c.Op != nft.Delete || kept[chain.Table.String()+chain.Name] {
			return false
		}
		_, balances := BalancingChainOf(chain.Table.Family, nft.GotoChain(chain.Name))
		return balances
	})
}
