package kernel

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/nlmsg"
)

// Lead says which elements of other sets of a table elements of one lead to, by their keys. The table has its chains, and
// nothing of it may be kept.
type References func(t *nft.Table, s *nft.Set, part []nft.Element) []nft.Elements

// ReadFollowing is ReadSets, and reads of other sets the elements that those lead to; keys that are not there are left
// out. They are asked for on the second connection while the first still lists: a large set is listed slowly, for the
// kernel goes through it from its start for every part of the listing (nf_tables_dump_set in
// net/netfilter/nf_tables_api.c), and 300,000 elements take three times as long to list as to ask for one by one.
func (c *Conn) ReadReferenced(second *Conn, names []string, lead References, ids ...nft.TableID) ([]*nft.Table, error) {
	f := follower{Conn: second, found: make(map[*nft.Set][][]nft.Element)}
	parts, done := make(chan func() error, partsAhead), make(chan error, 1)
	go func() {
		var failed error
		for ask := range parts {
			if failed == nil {
				failed = ask()
			}
		}
		done <- failed
	}()
	r := reader{Conn: c, only: names, part: func(t *nft.Table, s *nft.Set, part []nft.Element) {
		parts <- func() error { return f.ask(lead(t, s, part)) }
	}}
	tables, err := r.tables(ids)
	close(parts)
	if err := errors.Join(err, <-done); err != nil {
		return nil, err
	}
	for declared := range f.found {
		i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.TableID == declared.Table })
		tables[i].Sets = append(tables[i].Sets, f.set(declared))
	}
	return tables, nil
}

// partsAhead is how many parts of a listing may wait to be followed, of up to 32 kB each.
const partsAhead = 1024

// follower asks for elements by their keys.
type follower struct {
	*Conn
	found map[*nft.Set][][]nft.Element
}

func (f *follower) ask(all []nft.Elements) error {
	for _, e := range all {
		for list := e.List; len(list) > 0; {
			n := min(len(list), counterChunk)
			found := make([]nft.Element, 0, n)
			err := f.readKeys(e.Set, list[:n], func(got nft.Element) { found = append(found, got) })
			switch {
			case errors.Is(err, unix.ENOENT): // answered up to the one that is missing
				n = len(found) + 1
			case err != nil:
				return fmt.Errorf("read elements of %s %s: %w", e.Set.Table, e.Set.Name, err)
			}
			f.found[e.Set] = append(f.found[e.Set], found)
			list = list[n:]
		}
	}
	return nil
}

// set returns what was found of a set.
func (f *follower) set(declared *nft.Set) *nft.Set {
	s := *declared
	fill(&s, slices.Concat(f.found[declared]...))
	return &s
}

// readKeys asks for elements by their keys, few enough that the answers fit the receive buffer.
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
