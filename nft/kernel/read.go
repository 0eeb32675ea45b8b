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

// Reading tables: dumps of chains, rules, sets and elements.

// readAgain bounds the time in which Read begins again if another program commits meanwhile. Small tables are thus read at one
// generation, and reading large tables ends although other programs commit continually.
const readAgain = 100 * time.Millisecond

// Read returns those of the tables that exist, with all their elements, and the generation of the ruleset at which it began to
// read. A rule that package nft cannot express is an nft.Opaque, and a set whose types it does not know has no elements.
//
// If other programs commit continually, Read returns each object as it was at some moment since that generation. Their commits
// to other tables do not disturb it. If they change the tables themselves, the result can lack an object that existed all
// the time: the kernel continues a listing by the number of objects that it has returned. A Monitor reports such changes. If
// no program commits, the result is complete, or Read returns an error.
func (c *Conn) Read(ids ...nft.TableID) (tables []*nft.Table, generation uint32, err error) {
	return c.readTables(ids, false)
}

// ReadReachable is Read for a Conn that follows references. If the kernel does not count the elements of sets, it leaves out those
// to which no other element leads, instead of listing the sets, which would take long.
func (c *Conn) ReadReachable(ids ...nft.TableID) (tables []*nft.Table, generation uint32, err error) {
	return c.readTables(ids, true)
}

func (c *Conn) readTables(ids []nft.TableID, reachable bool) (tables []*nft.Table, generation uint32, err error) {
	for start := time.Now(); ; {
		before, err := c.Generation()
		if err != nil {
			return nil, 0, fmt.Errorf("read generation: %w", err)
		}
		r := reader{Conn: c, keyed: keyedSets{references: c.references, reachable: reachable}}
		tables, err = r.tablesByKey(ids)
		c.read = position{before, c.commits, r.keyed.leftOut}
		if err != nil && !errors.Is(err, unix.ENOENT) { // an object can go while it is being read
			return nil, 0, err
		}
		after, failed := c.Generation()
		switch {
		case failed != nil:
			return nil, 0, fmt.Errorf("read generation: %w", failed)
		case before == after && r.incomplete:
			return nil, 0, errIncomplete
		case before == after || time.Since(start) > readAgain:
			return tables, before, err
		}
	}
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
	only  []string                                  // names of the sets to read, nil for all
	part  func(*nft.Table, *nft.Set, []nft.Element) // called with each part of a listing, may be nil
	keyed keyedSets
	// incomplete reports that a listing could not be repeated until it was complete.
	incomplete bool
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

// dump requests all objects of a kind in a family, given by its number in the kernel, or those that fill selects. It reports
// whether a program committed meanwhile, to whatever table.
func (c *Conn) dump(kind uint16, family uint8, fill func(*nlmsg.Message), each func([]byte)) (interrupted bool, err error) {
	err = c.request(kind, unix.NLM_F_DUMP, family, fill, func(body []byte) error {
		each(body)
		return nil
	})
	if errors.Is(err, nlmsg.ErrInterrupted) {
		return true, nil
	}
	return false, err
}

// chains lists the chains of the table. The kernel lists those of all tables and continues by their number, so that a chain can
// be missed, or returned twice, if another program adds or deletes chains of its own (nf_tables_dump_chains in
// net/netfilter/nf_tables_api.c). Every chain of nfproxy has rules: see rules.
func (r *reader) chains(t *nft.Table) error {
	_, err := r.dump(unix.NFT_MSG_GETCHAIN, t.Family.Number(), nil, func(body []byte) {
		if c := decodeChain(t.Family, body); c.Table == t.TableID {
			t.Chains = append(t.Chains, c)
		}
	})
	if err != nil {
		return fmt.Errorf("chains: %w", err)
	}
	sortChains(t)
	t.Chains = slices.CompactFunc(t.Chains, func(a, b *nft.Chain) bool { return a.Name == b.Name })
	return nil
}

func sortChains(t *nft.Table) {
	slices.SortFunc(t.Chains, func(a, b *nft.Chain) int { return cmp.Compare(a.Name, b.Name) })
}

// chain requests one chain by its name. It returns nil if there is none.
func (r *reader) chain(id nft.TableID, name string) (c *nft.Chain, err error) {
	err = r.request(unix.NFT_MSG_GETCHAIN, unix.NLM_F_ACK, id.Family.Number(), func(m *nlmsg.Message) {
		m.String(unix.NFTA_CHAIN_TABLE, id.Name)
		m.String(unix.NFTA_CHAIN_NAME, name)
	}, func(body []byte) error {
		c = decodeChain(id.Family, body)
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return c, err
}

func (r *reader) sets(t *nft.Table) error {
	byTable := func(m *nlmsg.Message) { m.String(unix.NFTA_SET_TABLE, t.Name) }
	_, err := r.dump(unix.NFT_MSG_GETSET, t.Family.Number(), byTable, func(body []byte) {
		if s := decodeSet(t.Family, body); r.only == nil || slices.Contains(r.only, s.Name) {
			t.Sets = append(t.Sets, s)
			count := countOf(body)
			if r.WithoutCounts {
				count = -1
			}
			r.keyed.add(s, count)
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
		if !readable(s) || r.keyed.has(s) {
			continue
		}
		if err := r.elements(s, t); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	return nil
}

// A listing of a set that lacks elements is repeated for listAgain, with pauses that double from listPause. The kernel resizes the
// hash table of a million elements in less time.
const (
	listAgain = 2 * time.Second
	listPause = 5 * time.Millisecond
)

// elements lists the elements of a set, sorted and without duplicates.
//
// While the kernel resizes the hash table of a set, a listing can miss elements: it continues by the number of elements that
// it has returned, and their order changes meanwhile (nft_rhash_walk in net/netfilter/nft_set_hash.c). It then returns another
// element twice for each that it misses, and is repeated. The kernel resizes after a commit that adds or deletes many elements,
// without a new generation. Packets change a dynamic set all the time, so that its listing always can miss elements. ReadSets
// repeats nothing.
func (r *reader) elements(s *nft.Set, t *nft.Table) error {
	start := time.Now()
	for pause := listPause; ; pause *= 2 {
		twice, err := r.listElements(s, t)
		switch {
		case err != nil:
			return err
		case !twice || s.Dynamic || r.only != nil:
			return nil
		case time.Since(start) > listAgain:
			r.incomplete = true
			return nil
		}
		time.Sleep(pause)
	}
}

// errIncomplete is the error of a Read that can lack elements although no program commits.
var errIncomplete = errors.New("the kernel does not return all elements")

// listElements lists the elements of a set once. twice reports that the kernel returned some of them twice.
func (r *reader) listElements(s *nft.Set, t *nft.Table) (twice bool, err error) {
	var parts [][]nft.Element
	var intervals []kernelElement
	_, err = r.dump(unix.NFT_MSG_GETSETELEM, t.Family.Number(), ofSet(s), func(body []byte) {
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
	return fill(s, slices.Concat(parts...)), err
}

// fill sets the elements of a set, sorted and without duplicates, and reports whether there were duplicates.
func fill(s *nft.Set, elements []nft.Element) (twice bool) {
	s.Elements = elements
	s.Sort()
	s.Elements = slices.CompactFunc(s.Elements, func(a, b nft.Element) bool { return a.Key == b.Key })
	return len(s.Elements) < len(elements)
}

// ofSet returns the function that names the set in a message about elements.
func ofSet(s *nft.Set) func(*nlmsg.Message) {
	return func(m *nlmsg.Message) {
		m.String(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
		m.String(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	}
}

// rules lists the rules of the table, and requests the chains with rules that chains missed.
func (r *reader) rules(t *nft.Table) error {
	rules := make(map[string][]nft.Rule)
	_, err := r.listRules(t.TableID, func(chain string, _ uint64, rule nft.Rule) {
		rules[chain] = append(rules[chain], rule)
	})
	if err != nil {
		return err
	}
	for _, c := range t.Chains {
		c.Rules = rules[c.Name]
		delete(rules, c.Name)
	}
	for name, of := range rules {
		c, err := r.chain(t.TableID, name)
		if err != nil {
			return fmt.Errorf("chain %s: %w", name, err)
		}
		if c != nil {
			c.Rules = of
			t.Chains = append(t.Chains, c)
		}
	}
	sortChains(t)
	return nil
}

// listRules calls each for every rule of a table. It reports whether a program committed meanwhile, to whatever table.
func (c *Conn) listRules(t nft.TableID, each func(chain string, handle uint64, rule nft.Rule)) (interrupted bool, err error) {
	byTable := func(m *nlmsg.Message) { m.String(unix.NFTA_RULE_TABLE, t.Name) }
	interrupted, err = c.dump(unix.NFT_MSG_GETRULE, t.Family.Number(), byTable, func(body []byte) {
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
		return false, fmt.Errorf("rules: %w", err)
	}
	return interrupted, nil
}

// Rules returns a table's rules by their handles, as trace events name them. A handle is not used again while the table
// exists (nf_tables_alloc_handle in net/netfilter/nf_tables_api.c).
func (c *Conn) Rules(t nft.TableID) (map[uint64]nft.Rule, error) {
	rules := make(map[uint64]nft.Rule)
	for start := time.Now(); ; {
		interrupted, err := c.listRules(t, func(_ string, handle uint64, rule nft.Rule) { rules[handle] = rule })
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", t, err)
		}
		if !interrupted || time.Since(start) > readAgain {
			return rules, nil
		}
	}
}
