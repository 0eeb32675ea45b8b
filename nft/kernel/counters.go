package kernel

import (
	"fmt"
	"slices"
	"strings"

	"nfproxy/nft"
)

// counterChunk is how many counters are asked for at a time: each comes in a message of its own, and they must fit the
// receive buffer.
const counterChunk = 256

// keepCounters gives the elements that changes replace or add the counts that are theirs in the kernel. In a verdict map a
// count is its key's, for as long as the verdict is of one kind: a chain called lb-3 is of one kind with lb-2, not with one
// called refuse. In a map to addresses it is the address's, in all keys that differ in their last field alone, and goes
// with it to another such key. What is counted between that moment and the commit, some microseconds, is lost.
func (c *Conn) keepCounters(changes []nft.Change) ([]nft.Change, error) {
	kept := changes
	for _, s := range counting(changes) {
		counts, err := c.counts(s, changes)
		if err != nil {
			return nil, err
		}
		if &kept[0] == &changes[0] {
			kept = slices.Clone(changes)
		}
		for i, ch := range kept {
			if e, ok := ch.Object.(nft.Elements); ok && e.Set == s && ch.Op != nft.Delete {
				kept[i].Object = nft.Elements{Set: s, List: counted(s, e.List, counts)}
			}
		}
	}
	return kept, nil
}

// counting returns the sets whose elements count and are replaced by changes.
func counting(changes []nft.Change) []*nft.Set {
	var sets []*nft.Set
	for _, ch := range changes {
		if e, ok := ch.Object.(nft.Elements); ok && ch.Op == nft.Replace && e.Set.Counter && !slices.Contains(sets, e.Set) {
			sets = append(sets, e.Set)
		}
	}
	return sets
}

// counts reads the counts of the elements of a set that changes replace or delete.
func (c *Conn) counts(s *nft.Set, changes []nft.Change) (map[nft.Value]*nft.Counter, error) {
	counts := make(map[nft.Value]*nft.Counter)
	for _, ch := range changes {
		e, ok := ch.Object.(nft.Elements)
		if !ok || e.Set != s || ch.Op == nft.Add {
			continue
		}
		for chunk := range slices.Chunk(e.List, counterChunk) {
			err := c.readKeys(s, chunk, func(got nft.Element) { counts[countKey(s, got)] = got.Counter })
			if err != nil {
				return nil, fmt.Errorf("read counters of %s %s: %w", s.Table, s.Name, err)
			}
		}
	}
	return counts, nil
}

// counted returns elements with the counts that are theirs.
func counted(s *nft.Set, list []nft.Element, counts map[nft.Value]*nft.Counter) []nft.Element {
	list = slices.Clone(list)
	for i, el := range list {
		list[i].Counter = counts[countKey(s, el)]
	}
	return list
}

// countKey is what a count belongs to.
func countKey(s *nft.Set, e nft.Element) nft.Value {
	if s.Data == nil {
		return e.Key
	}
	if s.IsVerdictMap() {
		v := e.Data.Verdict()
		return e.Key + nft.Value(strings.TrimRight(v.String(), "0123456789"))
	}
	return e.Key[:len(e.Key)-s.Key[len(s.Key)-1].Width()] + e.Data
}
