package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// dying is the rest of its time within which an element has a batch of its own: it could be gone before the batch
// arrives, and deleting what is not there fails a batch.
const dying = time.Second

func (e kernelElement) isDying() bool { return e.expires <= dying }

// expandLearnt replaces deletions of learnt elements by deletions of the elements there are, and returns all changes of
// learnt elements for settle.
func (c *Conn) expandLearnt(changes []nft.Change) (expanded, learnt []nft.Change, err error) {
	for _, ch := range changes {
		l, ok := ch.Object.(nft.DynamicElements)
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
		list = slices.DeleteFunc(list, kernelElement.isDying)
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

// learnt returns the elements of a dynamic map, those that have one of the data if there are any.
func (c *Conn) learnt(l nft.DynamicElements) ([]kernelElement, error) {
	var list []kernelElement
	r := reader{Conn: c}
	err := r.dump(unix.NFT_MSG_GETSETELEM, l.Set.Table.Family, ofSet(l.Set), func(body []byte) {
		for e := range listed(l.Set, body) {
			if len(l.Data) == 0 || slices.Contains(l.Data, e.Data) {
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

// settle does what comes after the commit: packets that were on their way may have learnt what was deleted, or refreshed
// what was about to expire, and what stays learns of its other timeout.
func (c *Conn) settle(learnt []nft.Change) error {
	gone := make(map[*nft.Set][]nft.Value) // deleted before: no element goes twice
	for _, ch := range learnt {
		l := ch.Object.(nft.DynamicElements)
		list, err := c.learnt(l)
		if err != nil {
			return err
		}
		if ch.Op == nft.Delete {
			gone[l.Set] = append(gone[l.Set], l.Data...)
		} else {
			list = slices.DeleteFunc(list, func(e kernelElement) bool { return slices.Contains(gone[l.Set], e.Data) })
		}
		steady := slices.DeleteFunc(slices.Clone(list), kernelElement.isDying)
		if err := c.settleElements(ch, steady); err != nil {
			return err
		}
		for i, e := range list {
			if !e.isDying() {
				continue
			}
			if err := c.settleElements(ch, list[i:i+1]); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}

// settleElements deletes elements in a batch and, to replace their timeout, adds them again.
func (c *Conn) settleElements(ch nft.Change, list []kernelElement) error {
	if len(list) == 0 {
		return nil
	}
	l := ch.Object.(nft.DynamicElements)
	changes := []nft.Change{{Op: ch.Op, Object: nft.Elements{Set: l.Set, List: elementsOf(list)}}}
	b := c.newBatch(nil, 0)
	b.elementList(unix.NFT_MSG_DELSETELEM, 0, origin{}, changes[0].Object.(nft.Elements))
	if ch.Op == nft.Replace {
		b.retimed(origin{}, l, list)
	}
	return c.commit(b, changes)
}

// retimed appends the elements that would still be there with the other timeout, with what would be left of it.
func (b *batch) retimed(o origin, l nft.DynamicElements, list []kernelElement) {
	for chunk := range slices.Chunk(list, counterChunk) {
		b.begin(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, l.Set.Table.Family, o)
		ofSet(l.Set)(&b.Message)
		at := b.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range chunk {
			left := l.Timeout - (e.timeout - e.expires)
			if left <= 0 {
				continue
			}
			elem := b.Nest(unix.NFTA_LIST_ELEM)
			addKey(&b.Message, unix.NFTA_SET_ELEM_KEY, l.Set.Key, e.Key)
			addRest(&b.Message, l.Set, e.Element, false)
			b.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(l.Timeout.Milliseconds()))
			b.Uint64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(left.Milliseconds()))
			b.Unnest(elem)
		}
		b.Unnest(at)
		b.End()
	}
}
