package kernel

// Reading elements by key.

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// The kernel answers each key with a message of its own, and all answers to one datagram must fit the receive buffer:
// keysPerRequest bounds their number. It stops at the first key of a message that does not exist, and the keys after that one must
// be asked for again: keysPerMessage keeps them few.
const (
	keysPerRequest = 256
	keysPerMessage = 16
)

// lostAnswers is how often the keys of one datagram are asked for if answers are lost.
const lostAnswers = 3

// ReadElements returns those of the elements that exist, found by their keys, as they are in the kernel. If the set does not
// exist, none does.
func (c *Conn) ReadElements(e nft.Elements) ([]nft.Element, error) {
	found := make([]nft.Element, 0, len(e.List))
	const messages = keysPerRequest / keysPerMessage
	asked := slices.Collect(slices.Chunk(e.List, keysPerMessage))
	for attempt := 1; len(asked) > 0; {
		before, n := len(found), min(len(asked), messages)
		rest, err := c.readLists(e.Set, asked[:n], &found)
		switch {
		case err == nil:
			asked, attempt = append(asked[n:], rest...), 1
		case isNoRoom(err) && attempt < lostAnswers:
			found, attempt = found[:before], attempt+1
		default:
			return nil, fmt.Errorf("read elements of %s %s: %w", e.Set.Table, e.Set.Name, err)
		}
	}
	return found, nil
}

// readLists requests lists of elements by their keys, appends those that exist to found, and returns what is left of the lists in
// which a key does not exist: the keys after it.
func (c *Conn) readLists(s *nft.Set, lists [][]nft.Element, found *[]nft.Element) (rest [][]nft.Element, err error) {
	answered := make([]int, len(lists))
	refused, err := c.nl.ExchangeAll(len(lists), nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM), s.Table.Family.Number(),
		func(i int, m *nlmsg.Message) { addKeys(m, s, lists[i]) },
		func(i int, body []byte) {
			for got := range listed(s, body) {
				*found = append(*found, got.Element)
				answered[i]++
			}
		})
	if err != nil {
		return nil, err
	}
	for i, err := range refused {
		switch {
		case errors.Is(err, unix.ENOENT) && answered[i] < len(lists[i]):
			if after := lists[i][answered[i]+1:]; len(after) > 0 {
				rest = append(rest, after)
			}
		case err != nil:
			return nil, err
		}
	}
	return rest, nil
}

// addKeys appends the keys of elements of a set.
func addKeys(m *nlmsg.Message, s *nft.Set, keys []nft.Element) {
	ofSet(s)(m)
	at := m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, e := range keys {
		addElement(m, s, e, true)
	}
	m.Unnest(at)
}

// readKeys requests at most keysPerRequest elements by their keys. It fails with ENOENT at the first that does not exist.
func (c *Conn) readKeys(s *nft.Set, keys []nft.Element, each func(nft.Element)) error {
	return c.request(unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, s.Table.Family.Number(),
		func(m *nlmsg.Message) { addKeys(m, s, keys) },
		func(body []byte) error {
			for got := range listed(s, body) {
				each(got.Element)
			}
			return nil
		})
}
