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
func (r *Ruleset) balanceOwn(o *Own, d *delta) {
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
	b, ok := balancerOf(f, v)
	if !ok || r.balanced[b] {
		return
	}
	r.balanced[b] = true
	c := schemaOf(b.family).loadBalancer(b)
	d.before = append(d.before, nft.Change{Op: nft.Add, Object: c}, nft.Change{Op: nft.Add, Object: nft.Rules{Chain: c}})
}

// balancers lists a family's load balancing chains, in order.
func (r *Ruleset) balancers(f nft.Family) []balancer {
	var all []balancer
	for b := range r.balanced {
		if b.family == f {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b balancer) int {
		if a.local != b.local {
			return strings.Compare(a.chain(), b.chain())
		}
		return a.endpoints - b.endpoints
	})
	return all
}
