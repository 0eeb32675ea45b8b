package kernel

// Reading elements by key, while the elements that lead to them are still being listed.

import (
	"errors"
	"slices"

	"nfproxy/nft"
)

// References returns the elements of other sets to which elements of one set lead, by their keys. s is the set and part
// some of its elements; t is their table, with its chains. The function must not keep any of them.
type References func(t *nft.Table, s *nft.Set, part []nft.Element) []nft.Elements

// ReadReferenced is ReadSets and also reads the elements of other sets to which the listed elements lead. Keys that do not
// exist are left out.
//
// The other elements are requested by key, on the second connection, while the first is still listing. Listing them
// would be slow: for every part of a listing the kernel goes through the set from its start (nf_tables_dump_set in
// net/netfilter/nf_tables_api.c). 300,000 elements take three times as long to list as to request by key.
func (c *Conn) ReadReferenced(second *Conn, names []string, lead References, ids ...nft.TableID) ([]*nft.Table, error) {
	f := follower{Conn: second, found: make(map[*nft.Set][][]nft.Element)}
	r := reader{Conn: c, only: names}
	tables, err := f.follow(&r, lead, ids)
	if err != nil {
		return nil, err
	}
	for declared := range f.found {
		i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.TableID == declared.Table })
		tables[i].Sets = append(tables[i].Sets, f.set(declared))
	}
	return tables, nil
}

// partsAhead is how many parts of a listing, of up to 32 kB each, may wait for the second connection.
const partsAhead = 1024

// follower requests elements by key and collects those that exist.
type follower struct {
	*Conn
	found map[*nft.Set][][]nft.Element
}

// follow reads the tables, and meanwhile requests the elements to which the listed elements lead.
func (f *follower) follow(r *reader, lead References, ids []nft.TableID) ([]*nft.Table, error) {
	parts, done := make(chan func() error, partsAhead), make(chan error, 1)
	go func() {
		var failed error
		for request := range parts {
			if failed == nil {
				failed = request()
			}
		}
		done <- failed
	}()
	r.part = func(t *nft.Table, s *nft.Set, part []nft.Element) {
		keyed := r.keyed // so far: the next table adds to it
		parts <- func() error { return f.request(keyed.among(lead(t, s, part))) }
	}
	tables, err := r.tables(ids)
	r.part = nil
	close(parts)
	return tables, errors.Join(err, <-done)
}

func (f *follower) request(all []nft.Elements) error {
	for _, e := range all {
		found, err := f.ReadElements(e)
		if err != nil {
			return err
		}
		f.found[e.Set] = append(f.found[e.Set], found)
	}
	return nil
}

// set returns a set with its elements that were found.
func (f *follower) set(declared *nft.Set) *nft.Set {
	s := *declared
	fill(&s, slices.Concat(f.found[declared]...))
	return &s
}
