package nft

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Family is the address family of a table.
type Family uint8

// The supported families. inet is not among them: such a table would need two dispatch rules and gain nothing, since
// the keys of its sets have one family anyway.
const (
	IPv4 Family = iota + 1
	IPv6
)

// String returns nft's name of the family.
func (f Family) String() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// Number returns the kernel's number of the family (NFPROTO_IPV4 and NFPROTO_IPV6 in include/uapi/linux/netfilter.h).
func (f Family) Number() uint8 {
	if f == IPv6 {
		return 10
	}
	return 2
}

// AddrType returns the type of the family's addresses.
func (f Family) AddrType() Type {
	if f == IPv6 {
		return IPv6Addr
	}
	return IPv4Addr
}

// TableID identifies a table in a network namespace.
type TableID struct {
	Family Family
	Name   string
}

// String returns "ip name".
func (t TableID) String() string { return t.Family.String() + " " + t.Name }

// Table is a table with its sets and chains.
type Table struct {
	TableID
	Comment string
	// Owner is `flags owner`: the table belongs to the socket that adds it. Other sockets cannot change it, their flushes
	// skip it, and the kernel removes it when the socket is closed (NFT_TABLE_F_OWNER in
	// include/uapi/linux/netfilter/nf_tables.h, Linux 5.12). Diff does not compare it.
	Owner bool
	// Dormant is `flags dormant`: no base chain of the table sees packets. Only other programs set it.
	Dormant bool
	Sets    []*Set
	Chains  []*Chain
}

// Set is a set or, with Data, a map. As part of a Table it has its elements; a Member of a Fragment points to a Set that
// is only the declaration.
type Set struct {
	Table TableID
	Name  string
	// Key has one type, or several for a concatenation.
	Key []Type
	// Data is nil for a set, {VerdictType} for a verdict map, and {LimitType} for a set whose elements have limits of their own.
	Data []Type
	// Interval is `flags interval`: the keys are intervals.
	Interval bool
	// Dynamic is `flags dynamic,timeout`: packets add elements (Update), which expire. Diff does not compare these
	// elements.
	Dynamic bool
	// Size is the maximum number of elements of a Dynamic set, 0 for no limit.
	Size uint32
	// Counter makes every element count the packets that match it. In a nat chain these are connections.
	Counter bool
	// Limit gives every element a limit: the element matches only the packets that exceed it. Elements that packets add have this one,
	// others have their own, and Data is {LimitType}. nft loads such elements only into a set that is declared with a limit. It is nil
	// for a set without limits.
	Limit *Limit
	// Anonymous marks a set that belongs to a rule of another program, such as `ip saddr { 10.0.0.1 } drop`. The kernel
	// deletes it together with the rule.
	Anonymous bool
	// Elements are sorted by Key.
	Elements []Element
}

// Element is one element of a Set. With an empty Key it is the catch-all element, `*` in nft's syntax, which a lookup finds
// if there is no other (Linux 5.13). Only other programs add one.
type Element struct {
	Key     Value
	Data    Value
	Comment string
	// Counter is what the kernel has counted, nil if unknown or if the set does not count. Diff does not compare it.
	Counter *Counter
	// Expires is how much longer the element of a Dynamic set stays, counted from when it was read from the kernel; 0 if
	// that is unknown or if the element never expires. Diff does not compare it and String does not print it.
	Expires time.Duration
}

// Counter is the value of a counter.
type Counter struct {
	Packets, Bytes uint64
}

// Hook is the point in the network stack at which a base chain sees packets.
type Hook uint8

// The hooks of base chains of type nat that nfproxy uses. NoHook marks a chain that is not a base chain, OtherHook any
// other base chain: one with another hook, type or policy.
const (
	NoHook Hook = iota
	Prerouting
	Input
	Output
	Postrouting
	OtherHook
)

// String returns nft's name of the hook.
func (h Hook) String() string {
	return [...]string{"none", "prerouting", "input", "output", "postrouting", "other"}[h]
}

// Chain is a chain with its rules. With a Hook it is a base chain of type nat with policy accept. Such a chain sees only
// the first packet of a connection (nf_nat_inet_fn in net/netfilter/nf_nat_core.c).
type Chain struct {
	Table    TableID
	Name     string
	Hook     Hook
	Priority int32
	// Anonymous marks a chain that belongs to a rule of another program, such as `tcp dport 22 jump { drop; }`. The kernel
	// deletes it together with the rule (NFT_CHAIN_BINDING, Linux 5.9).
	Anonymous bool
	Rules     []Rule
}

// Set returns the table's set with that name, or nil if there is none.
func (t *Table) Set(name string) *Set {
	i := slices.IndexFunc(t.Sets, func(s *Set) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return t.Sets[i]
}

// Chain returns the table's chain with that name, or nil if there is none.
func (t *Table) Chain(name string) *Chain {
	i := slices.IndexFunc(t.Chains, func(c *Chain) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return t.Chains[i]
}

// Lookup returns the element with that key or, in an interval set, the element whose interval contains it; else the
// catch-all element.
func (s *Set) Lookup(key Value) (Element, bool) {
	at := func(e Element, k Value) int { return cmp.Compare(e.Key, k) }
	if !s.Interval {
		i, ok := slices.BinarySearchFunc(s.Elements, key, at)
		if !ok {
			return s.catchAll()
		}
		return s.Elements[i], true
	}
	for _, e := range s.Elements {
		first, last := e.Key[:len(e.Key)/2], e.Key[len(e.Key)/2:]
		if s.within(key, first, last) {
			return e, true
		}
	}
	return s.catchAll()
}

// catchAll returns the catch-all element.
func (s *Set) catchAll() (Element, bool) {
	if len(s.Elements) == 0 || s.Elements[0].Key != "" {
		return Element{}, false
	}
	return s.Elements[0], true
}

// within reports whether each field of key lies between the same fields of first and last.
func (s *Set) within(key, first, last Value) bool {
	k, f, l := key.Fields(s.Key), first.Fields(s.Key), last.Fields(s.Key)
	if k == nil || f == nil || l == nil {
		return false
	}
	for i := range k {
		if k[i] < f[i] || k[i] > l[i] {
			return false
		}
	}
	return true
}

// Sort sorts the elements by key.
func (s *Set) Sort() {
	slices.SortFunc(s.Elements, func(a, b Element) int { return cmp.Compare(a.Key, b.Key) })
}

// Validate returns an error that names the first unresolved reference (a set that a rule uses, or a chain to which a rule
// or an element goes) or the first element whose key or data does not fit its set.
func (t *Table) Validate() error {
	for _, c := range t.Chains {
		for i, r := range c.Rules {
			if err := t.validateRule(r); err != nil {
				return fmt.Errorf("table %s, chain %s, rule %d: %w", t.TableID, c.Name, i+1, err)
			}
		}
	}
	for _, s := range t.Sets {
		for _, e := range s.Elements {
			if err := t.validateElement(s, e); err != nil {
				return fmt.Errorf("table %s, set %s: %w", t.TableID, s.Name, err)
			}
		}
	}
	return nil
}

func (t *Table) validateRule(r Rule) error {
	sets, chain := r.references()
	for _, name := range sets {
		if t.Set(name) == nil {
			return fmt.Errorf("no set %q", name)
		}
	}
	if chain != "" && t.Chain(chain) == nil {
		return fmt.Errorf("no chain %q", chain)
	}
	return nil
}

func (t *Table) validateElement(s *Set, e Element) error {
	key := e.Key
	if s.Interval {
		key = key[:len(key)/2]
	}
	if key.Fields(s.Key) == nil {
		return fmt.Errorf("element %s does not fit the key", s.elementText(e))
	}
	if (s.Data == nil) != (e.Data == "") || s.Data != nil && e.Data.Fields(s.Data) == nil {
		return fmt.Errorf("element %s does not fit the data", s.elementText(e))
	}
	if v := e.Data.Verdict(); s.IsVerdictMap() && v.Chain != "" && t.Chain(v.Chain) == nil {
		return fmt.Errorf("element %s: no chain %q", s.elementText(e), v.Chain)
	}
	return nil
}

// IsMap reports whether the set is a map: limits are part of the elements of a set.
func (s *Set) IsMap() bool { return s.Data != nil && s.Data[0] != LimitType }

// IsVerdictMap reports whether the set's data are verdicts.
func (s *Set) IsVerdictMap() bool { return len(s.Data) == 1 && s.Data[0] == VerdictType }
