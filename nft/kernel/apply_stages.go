package kernel

// The transactions of their own that added and deleted chains get.

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// stages are the changes of a batch in the order in which packets may see them.
type stages struct {
	added   []nft.Change // chains with their rules, and sets: nothing leads to them yet
	main    []nft.Change
	deleted []nft.Change // chains with their rules, and sets: nothing leads to them any more
}

// inStages splits off the chains and sets that changes add to existing tables or delete from them.
//
// A packet reads the generation of the ruleset when it enters a base chain, and evaluates all chains with the rules of this
// generation (nft_do_chain in net/netfilter/nf_tables_core.c, Linux 6.18). But each lookup in a set reads the generation again. If a
// commit adds a chain and an element with a verdict that goes to it, a packet between the two reads finds the new element and goes to
// a chain that has no rules in the packet's generation. If a commit deletes both, a packet that has found the old element arrives at a
// chain that the commit has emptied. Both packets leave the chains untranslated, and conntrack leaves their connections
// untranslated. See docs/design/0016-chains-in-stages.md.
//
// Base chains stay in the main transaction: see hooksLast. So do the objects of tables that changes add or delete, sets without chains,
// and all objects if a set is deleted and added again with another declaration.
func inStages(changes []nft.Change) stages {
	var s stages
	tables, chains, sets := make(map[nft.TableID]bool), make(map[objectID]nft.Op), make(map[objectID]nft.Op)
	withChains := make(map[nft.Op]bool)
	for _, ch := range changes {
		switch o := ch.Object.(type) {
		case *nft.Table:
			tables[o.TableID] = true
		case *nft.Chain:
			if o.Hook == nft.NoHook {
				chains[objectID{o.Table, o.Name}], withChains[ch.Op] = ch.Op, true
			}
		case *nft.Set:
			id := objectID{o.Table, o.Name}
			if sets[id] != 0 {
				return stages{main: changes}
			}
			sets[id] = ch.Op
		}
	}
	if len(chains) == 0 {
		return stages{main: changes}
	}
	for _, ch := range changes {
		var op nft.Op
		if chain := ch.Chain(); chain != nil {
			op = chains[objectID{chain.Table, chain.Name}]
		} else if set, ok := ch.Object.(*nft.Set); ok && withChains[ch.Op] {
			op = sets[objectID{set.Table, set.Name}]
		}
		switch {
		case tables[tableOfChange(ch)] || op != ch.Op:
			s.main = append(s.main, ch)
		case op == nft.Add:
			s.added = append(s.added, ch)
		default:
			s.deleted = append(s.deleted, ch)
		}
	}
	if len(s.main) == 0 && len(s.added) == 0 { // what leads to them has been deleted before
		return stages{main: s.deleted}
	}
	return s
}

// objectID names a chain or a set.
type objectID struct {
	table nft.TableID
	name  string
}

// transactAdditions commits chains and sets that nothing leads to yet. It returns the generation that the next transaction expects,
// 0 for any.
func (c *Conn) transactAdditions(added []nft.Change, generation uint32) (uint32, error) {
	if len(added) == 0 {
		return generation, nil
	}
	if err := c.transact(added, generation); err != nil {
		return 0, err
	}
	if generation == 0 {
		return 0, nil
	}
	return max(generation+1, 1), nil // a commit counts by one and skips 0 (nf_tables_commit in net/netfilter/nf_tables_api.c)
}

// withdraw deletes the chains and sets that were added for a transaction that failed with an error, and returns the error. If it is
// unknown whether the transaction was committed, they stay.
func (c *Conn) withdraw(added []nft.Change, failed error) error {
	var refusal *ChangeError
	refused := errors.As(failed, &refusal) || errors.Is(failed, ErrNoRoom) || errors.Is(failed, ErrStale)
	if len(added) == 0 || !refused {
		return failed
	}
	var rules, sets, chains []nft.Change
	for _, ch := range added {
		switch ch.Op = nft.Delete; ch.Object.(type) {
		case nft.Rules:
			rules = append(rules, ch)
		case *nft.Set:
			sets = append(sets, ch)
		case *nft.Chain:
			chains = append(chains, ch)
		}
	}
	return c.undo(slices.Concat(rules, sets, chains), failed)
}

// transactDeletions deletes chains and sets that nothing leads to any more, when no packet is on its way to one of them.
func (c *Conn) transactDeletions(deleted []nft.Change) error {
	if len(deleted) == 0 {
		return nil
	}
	awaitPackets()
	return c.transact(deleted, 0)
}

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL in include/uapi/linux/membarrier.h.
const membarrierGlobal = 1

// withoutMembarrier is how long awaitPackets waits where the kernel does not offer membarrier(2). A packet takes microseconds.
const withoutMembarrier = 20 * time.Millisecond

// awaitPackets returns after each packet that was in netfilter at the call has left it: hooks run in read-side critical sections of RCU
// (nf_hook in include/linux/netfilter.h), and MEMBARRIER_CMD_GLOBAL waits for a grace period of RCU (membarrier in
// kernel/sched/membarrier.c, Linux 6.18). It takes some tens of milliseconds. With nohz_full the kernel does not offer it.
func awaitPackets() {
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		time.Sleep(withoutMembarrier)
	}
}
