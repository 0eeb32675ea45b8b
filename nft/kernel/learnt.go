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

// expandLearnt replaces deletions of learnt elements by deletions of the elements there are, and returns the former.
// Packets go on learning meanwhile, so that after the commit has taken away what they learn from, sweep looks again.
func (c *Conn) expandLearnt(changes []nft.Change) (expanded []nft.Change, learnt []nft.Learnt, err error) {
	for _, ch := range changes {
		l, ok := ch.Object.(nft.Learnt)
		if !ok {
			expanded = append(expanded, ch)
			continue
		}
		if ch.Op != nft.Delete {
			return nil, nil, fmt.Errorf("%s: what packets learn can only be deleted", ch)
		}
		list, err := c.learnt(l)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s %s: %w", l.Set.Table, l.Set.Name, err)
		}
		if len(list) > 0 {
			expanded = append(expanded, nft.Change{Op: nft.Delete, Object: nft.Elements{Set: l.Set, List: list}})
		}
		learnt = append(learnt, l)
	}
	return expanded, learnt, nil
}

// learnt returns the elements of a dynamic map that have one of the data, but those about to expire.
func (c *Conn) learnt(l nft.Learnt) ([]nft.Element, error) {
	var list []nft.Element
	r := reader{Conn: c}
	err := r.dump(unix.NFT_MSG_GETSETELEM, &nft.Table{TableID: l.Set.Table}, ofSet(l.Set), func(body []byte) {
		for e := range listed(l.Set, body) {
			if slices.Contains(l.Data, e.Data) && e.expires > dying {
				list = append(list, e.Element)
			}
		}
	})
	slices.SortFunc(list, func(a, b nft.Element) int { return cmp.Compare(a.Key, b.Key) })
	return slices.CompactFunc(list, func(a, b nft.Element) bool { return a.Key == b.Key }), err
}

// sweep deletes what packets that were on their way during the commit have learnt.
func (c *Conn) sweep(learnt []nft.Learnt) error {
	var changes []nft.Change
	for _, l := range learnt {
		changes = append(changes, nft.Change{Op: nft.Delete, Object: l})
	}
	expanded, _, err := c.expandLearnt(changes)
	if err != nil {
		return err
	}
	return c.apply(expanded, 0)
}
