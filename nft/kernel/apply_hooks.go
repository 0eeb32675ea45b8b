package kernel

// The transaction of their own that added base chains get.

import (
	"slices"

	"nfproxy/nft"
)

// hooksLast splits off the base chains that changes add, with their rules: they belong in a transaction of their own,
// after the others.
//
// Rules take effect when the kernel begins a new generation. Elements of interval sets take effect only at the end of the
// commit, after the kernel has gone through all other elements (nft_set_commit_update in nf_tables_commit,
// net/netfilter/nf_tables_api.c; in Linux 6.18.44 this holds for nft_set_pipapo.c and nft_set_rbtree.c). Packets that
// arrived in between would find empty interval sets, and Pods would be masqueraded.
//
// If a table is deleted, nothing is split off: a table that replaces another one must not be without base chains.
func hooksLast(changes []nft.Change) (first, hooks []nft.Change) {
	added := addedHooks(changes)
	if len(added) == 0 {
		return changes, nil
	}
	for _, c := range changes {
		of := c.Chain()
		if of != nil && slices.ContainsFunc(added, func(h *nft.Chain) bool { return h.Table == of.Table && h.Name == of.Name }) {
			hooks = append(hooks, c)
		} else {
			first = append(first, c)
		}
	}
	if len(first) == 0 {
		return changes, nil
	}
	return first, hooks
}

// addedHooks returns the base chains that changes add, none if a table is deleted. Existing base chains are not among
// them: the deletion of their old rules and the addition of new ones must stay in one transaction.
func addedHooks(changes []nft.Change) (added []*nft.Chain) {
	for _, c := range changes {
		switch o := c.Object.(type) {
		case *nft.Table:
			if c.Op == nft.Delete {
				return nil
			}
		case *nft.Chain:
			if c.Op == nft.Add && o.Hook != nft.NoHook {
				added = append(added, o)
			}
		}
	}
	return added
}
