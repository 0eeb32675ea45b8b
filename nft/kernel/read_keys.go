package kernel

// Reading elements by key.

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// ReadElements returns those of the elements that exist, found by their keys, as they are in the kernel. If the set does not
// exist, none does.
func (c *Conn) ReadElements(e nft.Elements) ([]nft.Element, error) {
	found := make([]nft.Element, 0, len(e.List))
	for list := e.List; len(list) > 0; {
		n, before := min(len(list), keysPerRequest), len(found)
		err := c.readKeys(e.Set, list[:n], func(got nft.Element) { found = append(found, got) })
		switch {
		case errors.Is(err, unix.ENOENT): // the kernel stops at the first key that does not exist
			n = len(found) - before + 1
		case err != nil:
			return nil, fmt.Errorf("read elements of %s %s: %w", e.Set.Table, e.Set.Name, err)
		}
		list = list[n:]
	}
	return found, nil
}

// keysPerRequest bounds a request for elements by key: each answer is a message of its own, and all of them must fit the
// receive buffer.
const keysPerRequest = 256

// readKeys requests at most keysPerRequest elements by their keys. It fails with ENOENT at the first that does not exist.
func (c *Conn) readKeys(s *nft.Set, keys []nft.Element, each func(nft.Element)) error {
	return c.request(unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK, s.Table.Family.Number(), func(m *nlmsg.Message) {
		ofSet(s)(m)
		at := m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for _, e := range keys {
			addElement(m, s, e, true)
		}
		m.Unnest(at)
	}, func(body []byte) error {
		for got := range listed(s, body) {
			each(got.Element)
		}
		return nil
	})
}
