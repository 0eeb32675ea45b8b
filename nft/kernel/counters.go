package kernel

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// counterChunk is how many counters are asked for at a time: each comes in a message of its own, and they must fit the
// receive buffer.
const counterChunk = 256

// keepCounters gives the elements that changes replace the counts they have in the kernel. What is counted between
// that moment and the commit, some microseconds, is lost.
func (c *Conn) keepCounters(changes []nft.Change) ([]nft.Change, error) {
	kept := changes
	for i, ch := range changes {
		e, ok := ch.Object.(nft.Elements)
		if !ok || ch.Op != nft.Replace || !e.Set.Counter {
			continue
		}
		list, err := c.withCounters(e)
		if err != nil {
			return nil, err
		}
		if &kept[0] == &changes[0] {
			kept = slices.Clone(changes)
		}
		kept[i].Object = nft.Elements{Set: e.Set, List: list}
	}
	return kept, nil
}

// withCounters returns the elements with their counters as they are in the kernel.
func (c *Conn) withCounters(e nft.Elements) ([]nft.Element, error) {
	list := slices.Clone(e.List)
	index := make(map[nft.Value]int, len(list))
	for i, el := range list {
		index[el.Key] = i
	}
	for chunk := range slices.Chunk(e.List, counterChunk) {
		err := c.request(unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, familyNumber(e.Set.Table.Family), func(m *message) {
			ofSet(e.Set)(m)
			at := m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
			for _, el := range chunk {
				addElement(m, e.Set, el, true)
			}
			m.unnest(at)
		}, func(body []byte) error {
			for got := range listed(e.Set, body) {
				if i, ok := index[got.Key]; ok {
					list[i].Counter = got.Counter
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read counters of %s %s: %w", e.Set.Table, e.Set.Name, err)
		}
	}
	return list, nil
}
