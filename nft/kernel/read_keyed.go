package kernel

// Reading the elements of large sets by the keys to which other elements lead, and the proof that these are all.

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// FollowReferences makes Read request the elements of some sets by the keys to which elements of other sets lead, as ReadReferenced
// does. It opens a second connection to the calling thread's network namespace, which must be the Conn's.
//
// A set with fewer than from elements is listed: see ManyElements. Elements to which nothing leads are found by their number: if the
// kernel counts more elements in a set than were found, the set is listed. Older kernels return no number. Read then lists the set,
// and ReadReachable leaves these elements out.
func (c *Conn) FollowReferences(lead References, from int, sets ...*nft.Set) error {
	second, err := Open()
	if err != nil {
		return err
	}
	if c.references != nil {
		err = c.references.second.Close()
	}
	c.references = &references{second, lead, from, sets}
	return err
}

// ManyElements is the number of elements in a set from which it takes less time to request them by key than to list them. Each
// request by key takes the same time, but for each part of a listing, of 32 kB, the kernel goes through the set from its start
// (nft_rhash_walk in net/netfilter/nft_set_hash.c).
const ManyElements = 50_000

// references is what FollowReferences sets.
type references struct {
	second *Conn
	lead   References
	from   int
	sets   []*nft.Set
}

// declaration returns the set of references that has the table, the name and the types of s, nil if there is none.
func (of *references) declaration(s *nft.Set) *nft.Set {
	i := slices.IndexFunc(of.sets, func(d *nft.Set) bool {
		return d.Table == s.Table && d.Name == s.Name && d.Interval == s.Interval && d.Dynamic == s.Dynamic &&
			slices.Equal(d.Key, s.Key) && slices.Equal(d.Data, s.Data)
	})
	if i < 0 {
		return nil
	}
	return of.sets[i]
}

// keyedSets are the sets of the tables that a reader reads by key. Without references there are none.
type keyedSets struct {
	*references
	// reachable: elements to which nothing leads may be left out. leftOut reports that they can have been.
	reachable, leftOut bool
	sets               []keyedSet
}

// keyedSet is a set that is read by key, with its declaration in references.
type keyedSet struct {
	set, declared *nft.Set
	count         int // of its elements without the catch-all element, -1 if unknown
}

// add adds a set if it can be read by key. count is the number of its elements, -1 if the kernel does not return it.
func (k *keyedSets) add(s *nft.Set, count int) {
	if k.references == nil {
		return
	}
	if declared := k.declaration(s); declared != nil && (count >= k.from || count < 0 && k.reachable) {
		k.sets = append(k.sets, keyedSet{s, declared, count})
	}
}

// countOf returns the number of elements in a NEWSET message, -1 if it has none.
func countOf(body []byte) int {
	for kind, b := range nlmsg.Attributes(body) {
		if kind == setCount {
			return int(nlmsg.Number(b))
		}
	}
	return -1
}

func (k *keyedSets) has(s *nft.Set) bool {
	return slices.ContainsFunc(k.sets, func(of keyedSet) bool { return of.set == s })
}

// among returns those of the elements whose sets are read by key, or all if there are no references.
func (k *keyedSets) among(all []nft.Elements) []nft.Elements {
	return slices.DeleteFunc(all, func(e nft.Elements) bool {
		return k.references != nil && !slices.ContainsFunc(k.sets, func(of keyedSet) bool { return of.declared == e.Set })
	})
}

// tablesByKey is tables, but reads the keyed sets by key.
func (r *reader) tablesByKey(ids []nft.TableID) ([]*nft.Table, error) {
	of := r.keyed.references
	if of == nil {
		return r.tables(ids)
	}
	f := follower{Conn: of.second, found: make(map[*nft.Set][][]nft.Element)}
	tables, err := f.follow(r, of.lead, ids)
	if err != nil {
		return nil, err
	}
	for _, k := range r.keyed.sets {
		i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.TableID == k.set.Table })
		if err := r.fillByKey(tables[i], k, f.found[k.declared]); err != nil {
			return nil, err
		}
	}
	return tables, nil
}

// fillByKey fills a set with the elements that were found by their keys, and with its catch-all element. If these are not all, it
// lists the set.
func (r *reader) fillByKey(t *nft.Table, k keyedSet, found [][]nft.Element) error {
	fill(k.set, slices.Concat(found...))
	switch {
	case k.count < 0:
		r.keyed.leftOut = true
	case k.count != len(k.set.Elements):
		return r.elements(k.set, t)
	}
	catchAll, err := r.ReadElements(nft.Elements{Set: k.set, List: []nft.Element{{}}})
	if errors.Is(err, unix.EINVAL) { // the kernel knows none: before Linux 5.13
		return nil
	}
	k.set.Elements = append(catchAll, k.set.Elements...)
	return err
}
