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
	// settleMargin is the remaining time below which Settle waits until an element has expired or was refreshed, if the
	// kernel would refuse the deletion of an expired one: each refusal takes about 10 ms.
	settleMargin = 100 * time.Millisecond
	// fruitlessListings is after how many incomplete listings of a map without elements to change Settle fails.
	fruitlessListings = 20
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
		list, _, err := c.listDynamic(d)
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

// listDynamic returns the elements of a dynamic map that have one of d.Data, or all of them if d.Data is empty. It reports
// whether the list is complete. It need not be if another program commits meanwhile, or if the kernel resizes the hash
// table: a dump continues by the number of elements that it has listed, so that for each element that it misses it lists
// another one twice (nft_rhash_walk in net/netfilter/nft_set_hash.c). The kernel resizes after many deletions.
func (c *Conn) listDynamic(d nft.DynamicElements) (list []kernelElement, complete bool, err error) {
	seen, twice := make(map[nft.Value]bool), false
	interrupted, err := c.dump(unix.NFT_MSG_GETSETELEM, d.Set.Table.Family.Number(), ofSet(d.Set), func(body []byte) {
		for e := range listed(d.Set, body) {
			if seen[e.Key] {
				twice = true
				continue
			}
			seen[e.Key] = true
			if len(d.Data) == 0 || slices.Contains(d.Data, e.Data) {
				list = append(list, e)
			}
		}
	})
	if err != nil {
		return nil, false, fmt.Errorf("read %s %s: %w", d.Set.Table, d.Set.Name, err)
	}
	slices.SortFunc(list, func(a, b kernelElement) int { return cmp.Compare(a.Key, b.Key) })
	return list, !twice && !interrupted, nil
}

// Unsettled reports whether Apply left changes of dynamic elements to Settle.
func (c *Conn) Unsettled() bool { return len(c.unsettled) > 0 }

// Settle continues the changes of dynamic elements that Apply did not complete. It ends with the first map after which
// the given time has passed, and lists one map and works on it for that time at most. Elements that are gone already are
// no error. After an error the state of the maps is unknown and must be read again.
func (c *Conn) Settle(atMost time.Duration) error {
	end := time.Now().Add(atMost)
	for c.Unsettled() {
		done, err := c.settle(c.unsettled[0], atMost)
		if err != nil {
			c.unsettled, c.fruitless = nil, 0
			return err
		}
		if done {
			c.unsettled, c.fruitless = c.unsettled[1:], 0
		}
		if time.Now().After(end) {
			return nil
		}
	}
	return nil
}

// settle applies one change of dynamic elements to the elements that exist now, in transactions of bounded size. It
// reports whether it completed the change. The time for it begins when the map is listed: otherwise a map that takes
// longer to list would not get done.
func (c *Conn) settle(ch nft.Change, atMost time.Duration) (done bool, err error) {
	d := ch.Object.(nft.DynamicElements)
	listed := time.Now()
	list, complete, err := c.listDynamic(d)
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
	if _, err := c.deletion(); err != nil {
		return false, err
	}
	waiting := false // for elements that are about to expire
	end := time.Now().Add(atMost)
	for n := 0; n < len(list); {
		if n > 0 && time.Now().After(end) {
			return false, nil
		}
		chunk := list[n:min(n+settleChunk, len(list))]
		n += len(chunk)
		if c.deletes != destroySetElem {
			all := len(chunk)
			chunk = slices.DeleteFunc(chunk, func(e kernelElement) bool { return e.Expires-time.Since(listed) < settleMargin })
			waiting = waiting || len(chunk) < all
		}
		if err := c.settleElements(ch, chunk); err != nil {
			return false, err
		}
	}
	if len(list) > 0 {
		c.fruitless = 0
	}
	if !complete {
		if c.fruitless++; c.fruitless == fruitlessListings {
			return false, fmt.Errorf("read %s %s: the kernel does not return all elements", d.Set.Table, d.Set.Name)
		}
	}
	return complete && !waiting, nil
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
		c.deletes = unix.NFT_MSG_DELSETELEM
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
