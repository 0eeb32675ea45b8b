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
	hooked := addedHooks(changes)
	if len(hooked) == 0 {
		return changes, nil
	}
	for _, c := range changes {
		var of *nft.Chain
		switch o := c.Object.(type) {
		case *nft.Chain:
			of = o
		case nft.Rules:
			of = o.Chain
		}
		if of != nil && slices.ContainsFunc(hooked, func(h *nft.Chain) bool { return h.Table == of.Table && h.Name == of.Name }) {
			hooks = append(hooks, c)
		} else {
			before = append(before, c)
		}
	}
	return before, hooks
}

// addedHooks are the base chains that changes add, none if a table goes. Those that are there are not meant: their new rules
// must not be parted from the deletion of those they had.
func addedHooks(changes []nft.Change) (hooked []*nft.Chain) {
	for _, c := range changes {
		switch o := c.Object.(type) {
		case *nft.Table:
			if c.Op == nft.Delete {
				return nil
			}
		case *nft.Chain:
			if c.Op == nft.Add && o.Hook != nft.NoHook {
				hooked = append(hooked, o)
			}
		}
	}
	return hooked
}
