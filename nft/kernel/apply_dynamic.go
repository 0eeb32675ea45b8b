package kernel

// Changes of dynamic elements: those that packets add, refresh and let expire while Apply runs.

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// expiring is the remaining time below which an element gets a transaction of its own. It could expire before the
// transaction arrives, and deleting an element that does not exist fails the whole transaction.
const expiring = time.Second

func (e kernelElement) isExpiring() bool { return e.Expires <= expiring }

// expandDynamic replaces deletions of dynamic elements with deletions of the elements that exist now. It also returns all
// changes of dynamic elements, for settleDynamic.
func (c *Conn) expandDynamic(changes []nft.Change) (expanded, dynamic []nft.Change, err error) {
	for _, ch := range changes {
		d, ok := ch.Object.(nft.DynamicElements)
		if !ok {
			expanded = append(expanded, ch)
			continue
		}
		dynamic = append(dynamic, ch)
		if ch.Op != nft.Delete {
			continue
		}
		list, err := c.listDynamic(d)
		if err != nil {
			return nil, nil, err
		}
		list = slices.DeleteFunc(list, kernelElement.isExpiring)
		if len(list) > 0 {
			expanded = append(expanded, nft.Change{Op: nft.Delete, Object: nft.Elements{Set: d.Set, List: elementsOf(list)}})
		}
	}
	return expanded, dynamic, nil
}

func elementsOf(list []kernelElement) []nft.Element {
	elements := make([]nft.Element, len(list))
	for i, e := range list {
		elements[i] = e.Element
	}
	return elements
}

// listDynamic returns the elements of a dynamic map that have one of d.Data, or all of them if d.Data is empty.
func (c *Conn) listDynamic(d nft.DynamicElements) ([]kernelElement, error) {
	var list []kernelElement
	r := reader{Conn: c}
	err := r.dump(unix.NFT_MSG_GETSETELEM, d.Set.Table.Family, ofSet(d.Set), func(body []byte) {
		for e := range listed(d.Set, body) {
			if len(d.Data) == 0 || slices.Contains(d.Data, e.Data) {
				list = append(list, e)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", d.Set.Table, d.Set.Name, err)
	}
	slices.SortFunc(list, func(a, b kernelElement) int { return cmp.Compare(a.Key, b.Key) })
	return slices.CompactFunc(list, func(a, b kernelElement) bool { return a.Key == b.Key }), nil
}

// settleDynamic completes changes of dynamic elements after the main transaction. It deletes elements that packets have
// added or refreshed meanwhile and that the main transaction did not delete, and sets new timeouts.
func (c *Conn) settleDynamic(dynamic []nft.Change) error {
	deleted := make(map[*nft.Set][]nft.Value) // data of deleted elements, which must not be replaced afterwards
	for _, ch := range dynamic {
		d := ch.Object.(nft.DynamicElements)
		list, err := c.listDynamic(d)
		if err != nil {
			return err
		}
		if ch.Op == nft.Delete {
			deleted[d.Set] = append(deleted[d.Set], d.Data...)
		} else {
			list = slices.DeleteFunc(list, func(e kernelElement) bool { return slices.Contains(deleted[d.Set], e.Data) })
		}
		lasting := slices.DeleteFunc(slices.Clone(list), kernelElement.isExpiring)
		if err := c.settleElements(ch, lasting); err != nil {
			return err
		}
		for i, e := range list {
			if !e.isExpiring() {
				continue
			}
			if err := c.settleElements(ch, list[i:i+1]); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}

// settleElements deletes elements in one transaction and, if ch replaces their timeout, adds them again.
func (c *Conn) settleElements(ch nft.Change, list []kernelElement) error {
	if len(list) == 0 {
		return nil
	}
	d := ch.Object.(nft.DynamicElements)
	changes := []nft.Change{{Op: ch.Op, Object: nft.Elements{Set: d.Set, List: elementsOf(list)}}}
	b := c.newBatch(nil, 0)
	b.elementList(unix.NFT_MSG_DELSETELEM, 0, origin{}, changes[0].Object.(nft.Elements))
	if ch.Op == nft.Replace {
		b.withTimeout(origin{}, d, list)
	}
	return c.commit(b, changes)
}

// withTimeout appends the elements that would still exist if d.Timeout had applied when each was last refreshed, with what
// would be left of it.
func (b *batch) withTimeout(o origin, d nft.DynamicElements, list []kernelElement) {
	for chunk := range slices.Chunk(list, keysPerRequest) {
		b.begin(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, d.Set.Table.Family, o)
		ofSet(d.Set)(&b.Message)
		at := b.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range chunk {
			left := d.Timeout - (e.timeout - e.Expires)
			if left <= 0 {
				continue
			}
			elem := b.Nest(unix.NFTA_LIST_ELEM)
			addKey(&b.Message, unix.NFTA_SET_ELEM_KEY, d.Set.Key, e.Key)
			addRest(&b.Message, d.Set, e.Element, false)
			b.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(d.Timeout.Milliseconds()))
			b.Uint64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(left.Milliseconds()))
			b.Unnest(elem)
		}
		b.Unnest(at)
		b.End()
	}
}
