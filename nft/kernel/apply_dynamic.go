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

const (
	// expiring is the remaining time below which the main transaction leaves an element to Settle: it could expire before
	// the transaction arrives.
	expiring = time.Second
	// forgetWithRules is how many dynamic elements the main transaction deletes at most, and forgetListing how long the
	// maps are listed for it. All others are left to Settle, so that they do not delay the rules.
	forgetWithRules = 1000
	forgetListing   = 100 * time.Millisecond
	// settleTime is how long Apply itself settles dynamic elements.
	settleTime = 200 * time.Millisecond
	// settleChunk is the number of elements in a transaction of Settle. It is below largeBatch, because the Monitor is
	// not paused.
	settleChunk = largeBatch / 2
)

func (e kernelElement) isExpiring() bool { return e.Expires <= expiring }

// splitDynamic separates the changes of dynamic elements from all others.
func splitDynamic(changes []nft.Change) (dynamic, others []nft.Change) {
	for _, ch := range changes {
		if _, ok := ch.Object.(nft.DynamicElements); ok {
			dynamic = append(dynamic, ch)
		} else {
			others = append(others, ch)
		}
	}
	return dynamic, others
}

// forgettable returns deletions of the elements that exist now and that dynamic deletes, within the limits for the main
// transaction, and dynamic with the deletions beyond the limits at its beginning.
func (c *Conn) forgettable(dynamic []nft.Change) (deletions, inOrder []nft.Change, err error) {
	var beyond, rest []nft.Change
	room, end := forgetWithRules, time.Now().Add(forgetListing)
	for _, ch := range dynamic {
		d := ch.Object.(nft.DynamicElements)
		if ch.Op != nft.Delete {
			rest = append(rest, ch)
			continue
		}
		if room <= 0 || time.Now().After(end) {
			beyond = append(beyond, ch)
			continue
		}
		list, err := c.listDynamic(d)
		if err != nil {
			return nil, nil, err
		}
		list = slices.DeleteFunc(list, kernelElement.isExpiring)
		if len(list) > room {
			beyond = append(beyond, ch)
			continue
		}
		rest, room = append(rest, ch), room-len(list)
		if len(list) > 0 {
			deletions = append(deletions, nft.Change{Op: nft.Delete, Object: nft.Elements{Set: d.Set, List: elementsOf(list)}})
		}
	}
	return deletions, append(beyond, rest...), nil
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

// Unsettled reports whether Apply left changes of dynamic elements to Settle.
func (c *Conn) Unsettled() bool { return len(c.unsettled) > 0 }

// Settle continues the changes of dynamic elements that Apply did not complete, for about the given time. Elements that
// are gone already are no error. After an error the state of the maps is unknown and must be read again.
func (c *Conn) Settle(atMost time.Duration) error {
	end := time.Now().Add(atMost)
	for c.Unsettled() {
		ch := c.unsettled[0]
		done, err := c.settle(ch, end)
		if err != nil {
			c.unsettled = nil
			return err
		}
		if !done {
			return nil
		}
		c.unsettled = c.unsettled[1:]
		if time.Now().After(end) {
			return nil
		}
	}
	return nil
}

// settle applies one change of dynamic elements to the elements that exist now, in transactions of bounded size. It
// reports whether it completed the change before the end.
func (c *Conn) settle(ch nft.Change, end time.Time) (done bool, err error) {
	d := ch.Object.(nft.DynamicElements)
	list, err := c.listDynamic(d)
	if errors.Is(err, unix.ENOENT) { // a later Apply has deleted the map
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if ch.Op == nft.Replace {
		deleted := c.unsettledDeletions(d.Set)
		list = slices.DeleteFunc(list, func(e kernelElement) bool {
			return e.timeout == d.Timeout || slices.Contains(deleted, e.Data)
		})
	}
	for chunk := range slices.Chunk(list, settleChunk) {
		if err := c.settleElements(ch, chunk); err != nil {
			return false, err
		}
		if time.Now().After(end) {
			return len(chunk) < settleChunk, nil
		}
	}
	return true, nil
}

// unsettledDeletions returns the data of elements of a map that are still to be deleted.
func (c *Conn) unsettledDeletions(s *nft.Set) []nft.Value {
	var all []nft.Value
	for _, ch := range c.unsettled {
		if d := ch.Object.(nft.DynamicElements); ch.Op == nft.Delete && d.Set.Table == s.Table && d.Set.Name == s.Name {
			all = append(all, d.Data...)
		}
	}
	return all
}

// settleElements deletes elements in one transaction and, if ch replaces their timeout, adds them again. If the kernel
// cannot ignore elements that have expired since they were listed, and refuses the transaction because of them, each half
// of the elements gets a transaction of its own.
func (c *Conn) settleElements(ch nft.Change, list []kernelElement) error {
	if len(list) == 0 {
		return nil
	}
	d := ch.Object.(nft.DynamicElements)
	changes := []nft.Change{{Op: ch.Op, Object: nft.Elements{Set: d.Set, List: elementsOf(list)}}}
	kind, err := c.deletion()
	if err != nil {
		return err
	}
	b := c.newBatch(nil, 0)
	b.elementList(kind, 0, origin{}, changes[0].Object.(nft.Elements))
	if ch.Op == nft.Replace {
		b.withTimeout(origin{}, d, list)
	}
	err = c.commit(b, changes)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if len(list) == 1 {
		return nil
	}
	half := len(list) / 2
	if err := c.settleElements(ch, list[:half]); err != nil {
		return err
	}
	return c.settleElements(ch, list[half:])
}

// destroySetElem is NFT_MSG_DESTROYSETELEM (include/uapi/linux/netfilter/nf_tables.h, Linux 6.3): it deletes elements and
// ignores those that do not exist.
const destroySetElem = 30

// deletion returns the message that deletes dynamic elements: NFT_MSG_DESTROYSETELEM if the kernel knows it, otherwise
// NFT_MSG_DELSETELEM. The first call asks the kernel to destroy elements of a set that does not exist. The answer is
// ENOENT, or EINVAL for an unknown message (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c).
func (c *Conn) deletion() (kind uint16, err error) {
	if c.WithoutDestroy {
		return unix.NFT_MSG_DELSETELEM, nil
	}
	if c.deletes == 0 {
		b := c.newBatch(nil, 0)
		nowhere := &nft.Set{Table: nft.TableID{Family: nft.IPv4, Name: "nfproxy-nowhere"}, Name: "nowhere", Key: []nft.Type{nft.IPv4Addr}}
		b.elementList(destroySetElem, 0, origin{}, nft.Elements{Set: nowhere, List: []nft.Element{{Key: "\x00\x00\x00\x00"}}})
		refused, err := c.deliver(b)
		if err != nil {
			return 0, err
		}
		c.deletes = unix.NFT_MSG_DELSETELEM
		if len(refused) > 0 && refused[0].errno == unix.ENOENT {
			c.deletes = destroySetElem
		}
	}
	return c.deletes, nil
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
