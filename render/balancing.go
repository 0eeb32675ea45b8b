package render

import (
	"slices"
	"strings"

	"nfproxy/nft"
)

// balance makes sure that the chain exists which a frontend's verdict goes to. Chains that nothing goes to any more
// stay until the next Reconcile: deleting them would make every change of an endpoint count one of chains.
func (r *Ruleset) balance(m nft.Member, d *delta) {
	r.balanceTo(m.Set.Table.Family, m.Data.Verdict(), d)
}

// balanceOwn does the same for the rules of a Service's own chains.
func (r *Ruleset) balanceOwn(o *DedicatedObjects, d *delta) {
	if o == nil {
		return
	}
	for _, c := range o.chains {
		for _, rule := range c.Rules {
			if v, ok := rule.Do.(nft.Verdict); ok {
				r.balanceTo(c.Table.Family, v, d)
			}
		}
	}
}

func (r *Ruleset) balanceTo(f nft.Family, v nft.Verdict, d *delta) {
	b, ok := BalancingChainOf(f, v)
	if !ok || r.balanced[b] {
		return
	}
	r.balanced[b] = true
	c := SchemaOf(b.Family).loadBalancer(b)
	d.before = append(d.before, nft.Change{Op: nft.Add, Object: c}, nft.Change{Op: nft.Add, Object: nft.Rules{Chain: c}})
}

// balancers lists a family's load balancing chains, in order.
func (r *Ruleset) balancers(f nft.Family) []BalancingChain {
	var all []BalancingChain
	for b := range r.balanced {
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
