package nft

import (
	"slices"
	"time"
)

// Rule is matches that must all hold, evaluated in order, and then one action.
type Rule struct {
	Match []Match
	Do    Action
}

// Match is a condition on a packet. The set of kinds is closed: In, OfProtocol, Translated, FromHost,
// FromInterface, Counted.
type Match interface{ match() }

// Action is what a rule does with a packet. The set of kinds is closed: Verdict, VerdictMap, DNAT, Reject, Masquerade,
// Remember, Opaque.
type Action interface{ action() }

// Field is a part of a packet, or of its connection, that is looked up in a set.
type Field struct {
	Kind FieldKind
	// Mod is the modulus of RandomNumber: it draws from 0 to Mod-1.
	Mod uint32
}

// FieldKind is the kind of a Field.
type FieldKind uint8

// The kinds of fields.
const (
	SourceAddr FieldKind = iota + 1
	DestinationAddr
	L4Protocol
	DestinationPort
	// RandomNumber is a number drawn anew for every lookup (numgen random).
	RandomNumber
	// OriginalDestinationAddr is where the connection's first packet was sent, before any translation.
	OriginalDestinationAddr
	// OriginalDestinationPort is its port there. It is known for TCP, UDP and SCTP; before it, a rule says which
	// (OfProtocol), or nft cannot print it.
	OriginalDestinationPort
)

// In holds when the fields, as one key, are in a set; with Not, when they are not.
type In struct {
	Key []Field
	Set string
	Not bool
}

// OfProtocol holds for packets of one layer 4 protocol.
type OfProtocol struct {
	Protocol Protocol
}

// Translated holds when the connection's destination was translated (ct status dnat).
type CtStatusDNAT struct{}

// FromHost holds when the source is one of this machine's own addresses (fib saddr type local).
type FibSourceLocal struct{}

// FromInterface holds for packets that came in by an interface: of that name, or with Prefix, one that begins so. With Not
// it holds for all others, this machine's own packets among them. In postrouting it needs Linux 5.7 (ip_output hands the
// interface on).
type InputInterface struct {
	Name        string
	Prefix, Not bool
}

// Counted always holds, and counts the packets for which it was asked.
type CounterStatement struct {
	Counter
}

// VerdictMap looks the fields up in a verdict map and does what it says. Without an element the next rule follows.
type VerdictMap struct {
	Key []Field
	Map string
}

// DNAT looks the fields up in a map and sends the connection to the address and port found there. Without an element
// the next rule follows.
type DNAT struct {
	Key []Field
	Map string
}

// Reject ends the connection with an answer: a TCP reset, for TCP alone, or ICMP port unreachable. Rejecting from
// prerouting needs Linux 5.9 (nft_reject_validate in net/netfilter/nft_reject.c).
type Reject struct {
	TCPReset bool
}

// Masquerade replaces the source by the address of the outgoing interface, the port chosen at random
// (NF_NAT_RANGE_PROTO_RANDOM_FULLY).
type Masquerade struct{}

// Remember enters the fields into a dynamic map, from Key to Data, for the time of Timeout, or lets an entry that is
// there stay for that time from now on; such an entry keeps its data. Then follows; when the map is full and has no such
// entry the next rule does (nft_dynset_eval in net/netfilter/nft_dynset.c).
type Update struct {
	Key, Data []Field
	Map       string
	Timeout   time.Duration
	Then      Verdict
}

// Opaque is a rule this package has no words for: one that another program wrote into our table. It can be printed as
// a comment and told apart, never traced or written.
type Opaque struct {
	Text string
}

func (In) match()               {}
func (OfProtocol) match()       {}
func (CtStatusDNAT) match()     {}
func (FibSourceLocal) match()   {}
func (InputInterface) match()   {}
func (CounterStatement) match() {}

func (Verdict) action()    {}
func (VerdictMap) action() {}
func (DNAT) action()       {}
func (Reject) action()     {}
func (Masquerade) action() {}
func (Update) action()     {}
func (Opaque) action()     {}

// same says whether two rules of a family's table do the same. What they counted is no difference.
func (r Rule) same(s Rule, f Family) bool { return r.uncounted().Text(f) == s.uncounted().Text(f) }

func (r Rule) uncounted() Rule {
	for i, m := range r.Match {
		if _, ok := m.(CounterStatement); ok {
			r.Match = slices.Clone(r.Match)
			r.Match[i] = CounterStatement{}
		}
	}
	return r
}

// refersTo says whether the rule looks up one of the sets.
func (r Rule) refersTo(names []string) bool {
	sets, _ := r.references()
	return slices.ContainsFunc(sets, func(s string) bool { return slices.Contains(names, s) })
}

// references returns the names of the sets the rule looks up and of the chain it goes to.
func (r Rule) references() (sets []string, chain string) {
	for _, m := range r.Match {
		if in, ok := m.(In); ok {
			sets = append(sets, in.Set)
		}
	}
	switch a := r.Do.(type) {
	case VerdictMap:
		sets = append(sets, a.Map)
	case DNAT:
		sets = append(sets, a.Map)
	case Update:
		sets, chain = append(sets, a.Map), a.Then.Chain
	case Verdict:
		chain = a.Chain
	}
	return sets, chain
}
