package kernel

// A first load in parts.

import (
	"errors"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// loadPart is the number of elements in one transaction of a first load.
//
// A hash table is enlarged by a worker of the kernel (rht_deferred_worker in lib/rhashtable.c), which does not keep up with one
// transaction of 500,000 elements: insertions into the table that is too small make it take twice the time of parts. Other programs that
// change the ruleset wait for one part only. If any socket on the machine listens to notifications, the kernel has the messages of one
// part in memory. See docs/design/0014-restart.md.
const loadPart = 10_000

// inParts reports whether changes can be applied in several transactions without any packet seeing a difference. hooks are the base
// chains that follow: see hooksLast. This is the case if the changes only add to tables that they add: packets do not reach a table
// without base chains.
func inParts(changes, hooks []nft.Change) bool {
	if len(hooks) == 0 || nft.ElementOperations(changes) <= loadPart {
		return false
	}
	added := make(map[nft.TableID]bool)
	for _, ch := range changes {
		if t, ok := ch.Object.(*nft.Table); ok {
			added[t.TableID] = true
		}
		if ch.Op != nft.Add || !added[tableOfChange(ch)] {
			return false
		}
	}
	return true
}

// tableOfChange returns the table of a change's object.
func tableOfChange(ch nft.Change) nft.TableID {
	switch o := ch.Object.(type) {
	case *nft.Table:
		return o.TableID
	case *nft.Set:
		return o.Table
	case *nft.Chain:
		return o.Table
	case nft.Rules:
		return o.Chain.Table
	case nft.Elements:
		return o.Set.Table
	}
	return nft.TableID{}
}

// partsOf splits changes that only add, in their order, so that a part has at most loadPart elements. The elements of an interval
// set stay together, however many there are: the kernel compares each with its neighbours.
func partsOf(changes []nft.Change) (parts [][]nft.Change) {
	var part []nft.Change
	room := loadPart
	for _, ch := range changes {
		e, ok := ch.Object.(nft.Elements)
		if !ok {
			part = append(part, ch)
			continue
		}
		for list := e.List; len(list) > 0; {
			if room <= 0 {
				parts, part, room = append(parts, part), nil, loadPart
			}
			n := min(room, len(list))
			if e.Set.Interval {
				n = len(list)
			}
			part = append(part, nft.Change{Op: ch.Op, Object: nft.Elements{Set: e.Set, List: list[:n]}})
			list, room = list[n:], room-n
		}
	}
	return append(parts, part)
}

// transactInParts commits the changes of a first load in parts. If the kernel refuses a part, it deletes the tables again, so that
// nothing of the changes is applied.
func (c *Conn) transactInParts(changes []nft.Change, generation uint32) error {
	defer func() { c.spare = nil }() // no later batch is that large
	for i, part := range partsOf(changes) {
		err := c.transact(part, generation)
		if err == nil {
			generation = 0 // the own commit has changed it
			continue
		}
		var refusal *ChangeError
		if i == 0 || !errors.As(err, &refusal) && !errors.Is(err, ErrNoRoom) {
			return err
		}
		return c.undo(tableDeletions(changes), err)
	}
	return nil
}

// tableDeletions returns the deletions of the tables that changes add.
func tableDeletions(changes []nft.Change) (deletions []nft.Change) {
	for _, ch := range changes {
		if t, ok := ch.Object.(*nft.Table); ok {
			deletions = append(deletions, nft.Change{Op: nft.Delete, Object: t})
		}
	}
	return deletions
}

// undo commits deletions of what earlier transactions of the same Apply have added, after the kernel refused one with an error, which
// undo returns. If another program has deleted one of the objects, the error is ErrStale.
func (c *Conn) undo(deletions []nft.Change, refused error) error {
	err := c.transact(deletions, 0)
	switch {
	case err == nil:
		return refused
	case errors.Is(err, unix.ENOENT):
		return ErrStale
	}
	return partly(deletions, errors.Join(refused, err))
}
