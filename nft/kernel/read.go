package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// Reading tables: dumps of chains, rules, sets and elements.

// readAttempts is how often Read begins again if the ruleset changes meanwhile. On a node where another program commits
// continually, a long dump is always interrupted. The last attempt counts, since other programs do not normally write
// to these tables.
const readAttempts = 5

// Read returns those of the tables that exist, with all their elements, and the generation of the ruleset at which they
// were read. A rule that package nft cannot express is an nft.Opaque, and a set whose types it does not know has no
// elements.
func (c *Conn) Read(ids ...nft.TableID) (tables []*nft.Table, generation uint32, err error) {
	for range readAttempts {
		var before uint32
		before, err = c.Generation()
		if err != nil {
			return nil, 0, fmt.Errorf("read generation: %w", err)
		}
		c.read = position{before, c.commits}
		var interrupted bool
		tables, interrupted, err = c.readTables(ids)
		if err != nil {
			return nil, 0, err
		}
		generation, err = c.Generation()
		if err != nil {
			return nil, 0, fmt.Errorf("read generation: %w", err)
		}
		if !interrupted && before == generation {
			break
		}
	}
	return tables, generation, nil
}

func (c *Conn) readTables(ids []nft.TableID) (tables []*nft.Table, interrupted bool, err error) {
	r := reader{Conn: c}
	tables, err = r.tables(ids)
	return tables, r.interrupted, err
}

// ReadSets is Read for callers that need only the sets with the given names. It reads them in that order and only once:
// the result may contain some of the changes that are committed meanwhile.
func (c *Conn) ReadSets(names []string, ids ...nft.TableID) ([]*nft.Table, error) {
	r := reader{Conn: c, only: names}
	return r.tables(ids)
}

// reader is one pass over the tables.
type reader struct {
	*Conn
	only        []string                                  // names of the sets to read, nil for all
	part        func(*nft.Table, *nft.Set, []nft.Element) // called with each part of a listing, may be nil
	interrupted bool                                      // the ruleset changed during a dump
}

// tables reads those of the tables that exist.
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

// table reads one table. It returns nil if there is none.
func (r *reader) table(id nft.TableID) (*nft.Table, error) {
	t := &nft.Table{TableID: id}
	family := id.Family.Number()
	err := r.request(unix.NFT_MSG_GETTABLE, unix.NLM_F_ACK, family,
		func(m *nlmsg.Message) { m.String(unix.NFTA_TABLE_NAME, id.Name) },
		func(body []byte) error {
			decodeTable(t, body)
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

// dump requests all objects of a kind in a family, or those that fill selects.
func (r *reader) dump(kind uint16, f nft.Family, fill func(*nlmsg.Message), each func([]byte)) error {
	err := r.request(kind, unix.NLM_F_DUMP, f.Number(), fill, func(body []byte) error {
		each(body)
		return nil
	})
	if errors.Is(err, nlmsg.ErrInterrupted) {
		r.interrupted = true
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

// fill sets the elements of a set, sorted and without duplicates: a hash table that grows during a dump returns some
// elements twice.
func fill(s *nft.Set, elements []nft.Element) {
	s.Elements = elements
	s.Sort()
	s.Elements = slices.CompactFunc(s.Elements, func(a, b nft.Element) bool { return a.Key == b.Key })
}

// ofSet returns the function that names the set in a message about elements.
func ofSet(s *nft.Set) func(*nlmsg.Message) {
	return func(m *nlmsg.Message) {
		m.String(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
		m.String(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	}
}

func (r *reader) rules(t *nft.Table) error {
	return r.listRules(t.TableID, func(chain string, _ uint64, rule nft.Rule) {
		if c := t.Chain(chain); c != nil {
			c.Rules = append(c.Rules, rule)
		}
	})
}

// listRules calls each for every rule of a table.
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

// Rules returns a table's rules by their handles, as trace events name them. A handle is not used again while the table
// exists (nf_tables_alloc_handle in net/netfilter/nf_tables_api.c).
func (c *Conn) Rules(t nft.TableID) (map[uint64]nft.Rule, error) {
	rules := make(map[uint64]nft.Rule)
	for range readAttempts {
		r := reader{Conn: c}
		err := r.listRules(t, func(_ string, handle uint64, rule nft.Rule) { rules[handle] = rule })
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", t, err)
		}
		if !r.interrupted {
			break
		}
	}
	return rules, nil
}
