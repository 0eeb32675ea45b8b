package kernel

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// dying is the rest of its time within which an element is left to expire: it could be gone before the batch arrives,
// and deleting what is not there fails the batch.
const dying = time.Second

// expandLearnt replaces deletions of learnt elements by deletions of the elements there are, and returns all changes of
// learnt elements for settle.
func (c *Conn) expandLearnt(changes []nft.Change) (expanded, learnt []nft.Change, err error) {
	for _, ch := range changes {
		l, ok := ch.Object.(nft.Learnt)
		if !ok {
			expanded = append(expanded, ch)
			continue
		}
		learnt = append(learnt, ch)
		if ch.Op != nft.Delete {
			continue
		}
		list, err := c.learnt(l)
		if err != nil {
			return nil, nil, err
		}
		if len(list) > 0 {
			expanded = append(expanded, nft.Change{Op: nft.Delete, Object: nft.Elements{Set: l.Set, List: elementsOf(list)}})
		}
	}
	return expanded, learnt, nil
}

func elementsOf(list []kernelElement) []nft.Element {
	elements := make([]nft.Element, len(list))
	for i, e := range list {
		elements[i] = e.Element
	}
	return elements
}

// learnt returns the elements of a dynamic map, those that have one of the data if there are any, but those about to
// expire.
func (c *Conn) learnt(l nft.Learnt) ([]kernelElement, error) {
	var list []kernelElement
	r := reader{Conn: c}
	err := r.dump(unix.NFT_MSG_GETSETELEM, &nft.Table{TableID: l.Set.Table}, ofSet(l.Set), func(body []byte) {
		for e := range listed(l.Set, body) {
			if e.expires > dying && (len(l.Data) == 0 || slices.Contains(l.Data, e.Data)) {
				list = append(list, e)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", l.Set.Table, l.Set.Name, err)
	}
	slices.SortFunc(list, func(a, b kernelElement) int { return cmp.Compare(a.Key, b.Key) })
	return slices.CompactFunc(list, func(a, b kernelElement) bool { return a.Key == b.Key }), nil
}

// settle does what comes after the commit, in a batch of its own: packets that were on their way may have learnt what was
// deleted, and what stays learns of its other timeout.
func (c *Conn) settle(learnt []nft.Change) error {
	var changes []nft.Change
	gone := make(map[*nft.Set][]nft.Value) // deleted before: no element goes twice
	b := c.newBatch(nil, 0)
	for _, ch := range learnt {
		l := ch.Object.(nft.Learnt)
		list, err := c.learnt(l)
		if err != nil {
			return err
		}
		if ch.Op == nft.Delete {
			gone[l.Set] = append(gone[l.Set], l.Data...)
		} else {
			list = slices.DeleteFunc(list, func(e kernelElement) bool { return slices.Contains(gone[l.Set], e.Data) })
		}
		o := origin{change: len(changes)}
		changes = append(changes, nft.Change{Op: ch.Op, Object: nft.Elements{Set: l.Set, List: elementsOf(list)}})
		b.elementList(unix.NFT_MSG_DELSETELEM, 0, o, nft.Elements{Set: l.Set, List: elementsOf(list)})
		if ch.Op == nft.Replace {
			b.retimed(o, l, list)
		}
	}
	if len(b.origins) == 0 {
		return nil
	}
	return c.commit(b, changes)
}

// retimed appends the elements that would still be there with the other timeout, with what would be left of it.
func (b *batch) retimed(o origin, l nft.Learnt, list []kernelElement) {
	for chunk := range slices.Chunk(list, counterChunk) {
		b.begin(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, l.Set.Table.Family, o)
		ofSet(l.Set)(&b.message)
		at := b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range chunk {
			left := l.Timeout - (e.timeout - e.expires)
			if left <= 0 {
				continue
			}
			elem := b.nest(unix.NFTA_LIST_ELEM)
			addKey(&b.message, unix.NFTA_SET_ELEM_KEY, l.Set.Key, e.Key)
			addRest(&b.message, l.Set, e.Element, false)
			b.uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(l.Timeout.Milliseconds()))
			b.uint64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(left.Milliseconds()))
			b.unnest(elem)
		}
		b.unnest(at)
		b.end()
	}
}
