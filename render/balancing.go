package render

import (
	"slices"
	"strings"

	"nfproxy/nft"
)

// ensureChain plans the balancing chain that a verdict goes to, if the kernel does not have it. Chains that no frontend needs
// any more stay until all Services are planned: deleting them would turn every change of an endpoint count into a change
// of chains.
func (r *Ruleset) ensureChain(f nft.Family, v nft.Verdict, p *plan) {
	b, ok := BalancingChainOf(f, v)
	if !ok || p.chains[b] || !p.full && r.applied.chains[b] {
		return
	}
	if p.chains == nil {
		p.chains = make(map[BalancingChain]bool)
	}
	p.chains[b] = true
	c := SchemaOf(b.Family).loadBalancer(b)
	p.batch.before = append(p.batch.before, nft.Change{Op: nft.Add, Object: c}, nft.Change{Op: nft.Add, Object: nft.Rules{Chain: c}})
}

// ensureChainsOf does the same for the rules in a Service's dedicated chains.
func (r *Ruleset) ensureChainsOf(o *DedicatedObjects, p *plan) {
	if o == nil {
		return
	}
	for _, c := range o.chains {
		for _, rule := range c.Rules {
			if v, ok := rule.Do.(nft.Verdict); ok {
				r.ensureChain(c.Table.Family, v, p)
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

// WithoutSpares leaves out of the changes that Reconcile returns those that only remove load balancing chains which no
// frontend needs at the moment: they do no harm, and are there to be needed again.
func WithoutUnusedChains(changes []nft.Change) []nft.Change {
	kept := make(map[string]bool) // chains that get rules again
	for _, c := range changes {
		if rules, ok := c.Object.(nft.Rules); ok && c.Op == nft.Add {
			kept[rules.Chain.Table.String()+rules.Chain.Name] = true
		}
	}
	return slices.DeleteFunc(changes, func(c nft.Change) bool {
		var chain *nft.Chain
		switch o := c.Object.(type) {
		case *nft.Chain:
			chain = o
		case nft.Rules:
			chain = o.Chain
		}
		if chain == nil || c.Op != nft.Delete || kept[chain.Table.String()+chain.Name] {
			return false
		}
		_, balances := BalancingChainOf(chain.Table.Family, nft.GotoChain(chain.Name))
		return balances
	})
}
