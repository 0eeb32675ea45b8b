package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/nlmsg"
)

// readAttempts is how often Read starts again when the ruleset changes under it. On a node where somebody else commits
// all the time a long dump never goes undisturbed; then the last one counts, since others do not write to our tables.
const readAttempts = 5

// Read returns the tables of the given names that exist, with all their elements, and the ruleset's generation they
// were read at. Rules that package nft has no words for are nft.Opaque; sets it has no types for have no elements.
func (c *Conn) Read(ids ...nft.TableID) (tables []*nft.Table, generation uint32, err error) {
	for range readAttempts {
		var before uint32
		before, err = c.Generation()
		if err != nil {
			return nil, 0, fmt.Errorf("read generation: %w", err)
		}
		var disturbed bool
		tables, disturbed, err = c.readTables(ids)
		if err != nil {
			return nil, 0, err
		}
		generation, err = c.Generation()
		if err != nil {
			return nil, 0, fmt.Errorf("read generation: %w", err)
		}
		if !disturbed && before == generation {
			break
		}
	}
	return tables, generation, nil
}

func (c *Conn) readTables(ids []nft.TableID) (tables []*nft.Table, disturbed bool, err error) {
	r := reader{Conn: c}
	tables, err = r.tables(ids)
	return tables, r.disturbed, err
}

// ReadSets is Read with the sets of the given names alone, for who needs no more. What is committed meanwhile may be in
// it or not.
func (c *Conn) ReadSets(names []string, ids ...nft.TableID) ([]*nft.Table, error) {
	r := reader{Conn: c, only: names}
	return r.tables(ids)
}

// reader is one pass over the tables.
type reader struct {
	*Conn
	only      []string                                  // names of sets; nil for all
	part      func(*nft.Table, *nft.Set, []nft.Element) // sees each part of a listing; nil for nobody
	disturbed bool
}

// tables reads those that exist.
func (r *reader) tables(ids []nft.TableID) ([]*nft.Table, error) {
	var tables []*nft.Table
	for _, id := range ids {
		t, err := r.table(id)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", id, err)
		}
		if t != nil {
			tables = append(tables, t)
		}
	}
	return tables, nil
}

// table reads one table, nil if there is none.
func (r *reader) table(id nft.TableID) (*nft.Table, error) {
	t := &nft.Table{TableID: id}
	family := id.Family.Number()
	err := r.request(unix.NFT_MSG_GETTABLE, unix.NLM_F_ACK, family,
		func(m *nlmsg.Message) { m.String(unix.NFTA_TABLE_NAME, id.Name) },
		func(body []byte) error {
			for kind, b := range nlmsg.Attributes(body) {
				if kind == tableUserdata {
					t.Comment = comment(b)
				}
			}
			return nil
		})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, part := range []func(*nft.Table) error{r.chains, r.rules, r.sets} {
		if err := part(t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// dump goes through all objects of a kind in a family.
func (r *reader) dump(kind uint16, f nft.Family, fill func(*nlmsg.Message), each func([]byte)) error {
	err := r.request(kind, unix.NLM_F_DUMP, f.Number(), fill, func(body []byte) error {
		each(body)
		return nil
	})
	if errors.Is(err, nlmsg.ErrInterrupted) {
		r.disturbed = true
		return nil
	}
	return err
}

func (r *reader) chains(t *nft.Table) error {
	err := r.dump(unix.NFT_MSG_GETCHAIN, t.Family, nil, func(body []byte) {
		if c := decodeChain(t.Family, body); c.Table == t.TableID {
			t.Chains = append(t.Chains, c)
		}
	})
	if err != nil {
		return fmt.Errorf("chains: %w", err)
	}
	slices.SortFunc(t.Chains, func(a, b *nft.Chain) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

func decodeChain(f nft.Family, body []byte) *nft.Chain {
	c := &nft.Chain{Table: nft.TableID{Family: f}}
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			c.Table.Name = nlmsg.CString(b)
		case unix.NFTA_CHAIN_NAME:
			c.Name = nlmsg.CString(b)
		case unix.NFTA_CHAIN_HOOK:
			for kind, b := range nlmsg.Attributes(b) {
				switch kind {
				case unix.NFTA_HOOK_HOOKNUM:
					c.Hook = hookOf(uint32(nlmsg.Number(b)))
				case unix.NFTA_HOOK_PRIORITY:
					c.Priority = int32(nlmsg.Number(b))
				}
			}
		}
	}
	return c
}

// hookNumber is enum nf_inet_hooks of include/uapi/linux/netfilter.h.
func hookNumber(h nft.Hook) uint32 {
	return [...]uint32{nft.Prerouting: unix.NF_INET_PRE_ROUTING, nft.Output: unix.NF_INET_LOCAL_OUT,
		nft.Postrouting: unix.NF_INET_POST_ROUTING}[h]
}

// hookOf is hookNumber's inverse; a hook we never use is the one nft.Hook after ours.
func hookOf(number uint32) nft.Hook {
	for h := nft.Prerouting; h <= nft.Postrouting; h++ {
		if hookNumber(h) == number {
			return h
		}
	}
	return nft.OtherHook
}

func (r *reader) sets(t *nft.Table) error {
	byTable := func(m *nlmsg.Message) { m.String(unix.NFTA_SET_TABLE, t.Name) }
	err := r.dump(unix.NFT_MSG_GETSET, t.Family, byTable, func(body []byte) {
		if s := decodeSet(t.Family, body); r.only == nil || slices.Contains(r.only, s.Name) {
			t.Sets = append(t.Sets, s)
		}
	})
	if err != nil {
		return fmt.Errorf("sets: %w", err)
	}
	slices.SortFunc(t.Sets, func(a, b *nft.Set) int { return strings.Compare(a.Name, b.Name) })
	order := slices.Clone(t.Sets)
	slices.SortStableFunc(order, func(a, b *nft.Set) int {
		return slices.Index(r.only, a.Name) - slices.Index(r.only, b.Name)
	})
	for _, s := range order {
		if !readable(s) {
			continue
		}
		if err := r.elements(s, t); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

func (r *reader) elements(s *nft.Set, t *nft.Table) error {
	var parts [][]nft.Element
	var intervals []kernelElement
	err := r.dump(unix.NFT_MSG_GETSETELEM, t.Family, ofSet(s), func(body []byte) {
		var part []nft.Element
		for e := range listed(s, body) {
			if s.Interval {
				intervals = append(intervals, e)
				continue
			}
			part = append(part, e.Element)
			if s.Dynamic && e.expires > 0 {
				stays(s, e)
			}
		}
		parts = append(parts, part)
		if r.part != nil && len(part) > 0 {
			r.part(t, s, part)
		}
	})
	if s.Interval {
		parts = [][]nft.Element{joinIntervals(s, intervals)}
	}
	fill(s, slices.Concat(parts...))
	return err
}

// fill gives a set its elements, in order and each once: a hash table that grows while it is dumped gives some twice.
func fill(s *nft.Set, elements []nft.Element) {
	s.Elements = elements
	s.Sort()
	s.Elements = slices.CompactFunc(s.Elements, func(a, b nft.Element) bool { return a.Key == b.Key })
}

// stays notes how much longer an element stays.
func stays(s *nft.Set, e kernelElement) {
	if s.Left == nil {
		s.Left = make(map[nft.Value]time.Duration)
	}
	s.Left[e.Key] = e.expires
}

// ofSet fills in which set a request for elements is about.
func ofSet(s *nft.Set) func(*nlmsg.Message) {
	return func(m *nlmsg.Message) {
		m.String(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
		m.String(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	}
}

// listed goes through the elements of a NEWSETELEM message.
func listed(s *nft.Set, body []byte) func(yield func(kernelElement) bool) {
	return func(yield func(kernelElement) bool) {
		for kind, list := range nlmsg.Attributes(body) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, b := range nlmsg.Attributes(list) {
				if !yield(decodeElement(s, b)) {
					return
				}
			}
		}
	}
}

// joinIntervals makes elements of the pairs in which the kernel keeps intervals of single fields. An end without a
// start is nft's mark of a gap before the first interval; a start without an end reaches to the last value.
func joinIntervals(s *nft.Set, all []kernelElement) []nft.Element {
	if len(s.Key) > 1 {
		var elements []nft.Element
		for _, e := range all {
			last := e.keyEnd
			if last == "" {
				last = e.Key
			}
			e.Element.Key += last
			elements = append(elements, e.Element)
		}
		return elements
	}
	slices.SortFunc(all, func(a, b kernelElement) int {
		if c := cmp.Compare(a.Key, b.Key); c != 0 || a.end == b.end {
			return c
		}
		if a.end {
			return -1
		}
		return 1
	})
	var elements []nft.Element
	var open *nft.Element
	for i := range all {
		switch {
		case !all[i].end:
			open = &all[i].Element
		case open != nil:
			open.Key += predecessor(all[i].Key)
			elements, open = append(elements, *open), nil
		}
	}
	if open != nil {
		open.Key += nft.Value(strings.Repeat("\xff", len(open.Key)))
		elements = append(elements, *open)
	}
	return elements
}

func (r *reader) rules(t *nft.Table) error {
	return r.listRules(t.TableID, func(chain string, _ uint64, rule nft.Rule) {
		if c := t.Chain(chain); c != nil {
			c.Rules = append(c.Rules, rule)
		}
	})
}

// listRules goes through the rules of a table.
func (r *reader) listRules(t nft.TableID, each func(chain string, handle uint64, rule nft.Rule)) error {
	byTable := func(m *nlmsg.Message) { m.String(unix.NFTA_RULE_TABLE, t.Name) }
	err := r.dump(unix.NFT_MSG_GETRULE, t.Family, byTable, func(body []byte) {
		var chain string
		var handle uint64
		var rule nft.Rule
		for kind, b := range nlmsg.Attributes(body) {
			switch kind {
			case unix.NFTA_RULE_CHAIN:
				chain = nlmsg.CString(b)
			case unix.NFTA_RULE_HANDLE:
				handle = nlmsg.Number(b)
			case unix.NFTA_RULE_EXPRESSIONS:
				rule = decodeRule(t.Family, decodeExprs(t.Family, b))
			}
		}
		each(chain, handle, rule)
	})
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	return nil
}

// Rules returns a table's rules by their handles, by which trace events call them. A handle is never used again as long
// as the table exists (nf_tables_alloc_handle in net/netfilter/nf_tables_api.c).
func (c *Conn) Rules(t nft.TableID) (map[uint64]nft.Rule, error) {
	rules := make(map[uint64]nft.Rule)
	for range readAttempts {
		r := reader{Conn: c}
		err := r.listRules(t, func(_ string, handle uint64, rule nft.Rule) { rules[handle] = rule })
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", t, err)
		}
		if !r.disturbed {
			break
		}
	}
	return rules, nil
}
