package kernel

import (
	"slices"

	"nfproxy/nft"
)

// hooksLast parts changes that add base chains: what comes before, and the base chains with their rules. Rules count from
// the moment at which the kernel begins a new generation, but the elements of interval sets from the end of the commit,
// which goes through all other elements first (nft_set_commit_update in nf_tables_commit, net/netfilter/nf_tables_api.c;
// Linux 6.18.44 commits so both in nft_set_pipapo.c and in nft_set_rbtree.c). Packets that come in between would find no
// ranges: pods would be masqueraded. A table that takes the place of another gets its hooks in the same transaction all
// the same: without rules it would be worse.
func hooksLast(changes []nft.Change) (before, hooks []nft.Change) {
	for _, c := range changes {
		if _, table := c.Object.(*nft.Table); table && c.Op == nft.Delete {
			return changes, nil
		}
	}
	for _, c := range changes {
		if hooked := baseChain(c); hooked != nil && adds(changes, hooked) {
			hooks = append(hooks, c)
		} else {
			before = append(before, c)
		}
	}
	return before, hooks
}

// baseChain is the base chain that is added or gets rules by a change, nil if none is.
func baseChain(c nft.Change) *nft.Chain {
	var chain *nft.Chain
	switch o := c.Object.(type) {
	case *nft.Chain:
		chain = o
	case nft.Rules:
		chain = o.Chain
	}
	if c.Op != nft.Add || chain == nil || chain.Hook == nft.NoHook {
		return nil
	}
	return chain
}

// adds says whether changes add a chain: rules of one that is there must not be parted from the deletion of those it had.
func adds(changes []nft.Change, chain *nft.Chain) bool {
	return slices.ContainsFunc(changes, func(c nft.Change) bool {
		added, ok := c.Object.(*nft.Chain)
		return ok && c.Op == nft.Add && added.Table == chain.Table && added.Name == chain.Name
	})
}
