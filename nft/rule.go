package nft

import (
	"slices"
	"time"
)

// Rule is a list of matches, evaluated in order, and the action that is taken if all of them hold.
type Rule struct {
	Match []Match
	Do    Action
}

// Match is a condition on a packet. The set of kinds is closed: In, OfProtocol, CtStatusDNAT, FibSourceLocal,
// FibDestinationLocal, EchoRequest, InputInterface, CounterStatement and OverLimit.
type Match interface{ match() }

// Action is what a rule does with a packet. The set of kinds is closed: Verdict, VerdictMap, DNAT, Redirect, Reject,
// Masquerade, Update and Opaque.
type Action interface{ action() }

// Field is a part of a packet or of its connection that is looked up in a set.
type Field struct {
	Kind FieldKind
	// Mod is the modulus of RandomNumber, ClientHash and ConnectionHash: they are from 0 to Mod-1.
	Mod uint32
}

// FieldKind is the kind of a Field.
type FieldKind uint8

// The kinds of fields.
const (
	SourceAddr      FieldKind = iota + 1 // ip saddr
	DestinationAddr                      // ip daddr
	L4Protocol                           // meta l4proto
	DestinationPort                      // th dport
	// RandomNumber is `numgen random mod N`: a number drawn anew for every lookup.
	RandomNumber
	// OriginalDestinationAddr is `ct original ip daddr`: the destination of the connection's first packet, before any
	// translation.
	OriginalDestinationAddr
	// OriginalDestinationPort is `ct original proto-dst`: the port of that destination, for TCP, UDP and SCTP. nft can
	// print it only in a rule that matches or looks up the protocol before it.
	OriginalDestinationPort
	// PacketDirection is `ct direction`: the direction of the packet in its connection. In a chain of type nat it is always Original.
	PacketDirection
	// ClientHash is `jhash ip saddr mod N seed HashSeed`: a number that depends on the source address alone.
	ClientHash
	// ConnectionHash is `jhash ip saddr . th sport mod N seed HashSeed`: a number that depends on the source address and port.
	ConnectionHash
)

// In is `ip saddr @set`: it holds when the concatenated fields are a key of a set and, if the set has limits, the packet exceeds that of
// the element. With Not (`!= @set`) it holds when they are no key.
type In struct {
	Key []Field
	Set string
	Not bool
}

// OfProtocol is `meta l4proto`: it holds for packets of one layer 4 protocol.
type OfProtocol struct {
	Protocol Protocol
}

// CtStatusDNAT is `ct status dnat`: it holds when the connection's destination was translated.
type CtStatusDNAT struct{}

// FibSourceLocal is `fib saddr type local`: it holds when the source is an address of this machine.
type FibSourceLocal struct{}

// FibDestinationLocal is `fib daddr type local`: it holds when the destination is an address of this machine, or inside a
// route of type local. With Not it holds for all other destinations.
type FibDestinationLocal struct {
	Not bool
}

// EchoRequest is `icmp type echo-request`, and `icmpv6 type echo-request` in a table of IPv6: it holds for pings.
type EchoRequest struct{}

// InputInterface is `iifname`: it holds for packets that came in by the interface of that name or, with Prefix, by one
// whose name begins with it. With Not it holds for all other packets, including those that this machine sends. In
// postrouting it needs Linux 5.7, where ip_output passes the interface on.
type InputInterface struct {
	Name        string
	Prefix, Not bool
}

// CounterStatement is `counter`: it always holds and counts the packets for which it is evaluated.
type CounterStatement struct {
	Counter
}

// OverLimit is `update @set { key timeout T }`, with a dynamic set that has a limit. It adds an element to the set, or restarts the timeout
// of the element with that key, and holds if the packet exceeds the element's limit. If the set is full and has no such element, it does
// not hold (nft_dynset_eval in net/netfilter/nft_dynset.c).
type OverLimit struct {
	Key     []Field
	Set     string
	Timeout time.Duration
}

// VerdictMap is `ip daddr vmap @map`: it looks the fields up in a verdict map and applies the verdict found there.
// Without an element, evaluation continues with the next rule.
type VerdictMap struct {
	Key []Field
	Map string
}

// DNAT is `dnat to ip daddr map @map`: it looks the fields up in a map and translates the connection's destination to
// the address and port found there. Without an element, evaluation continues with the next rule.
type DNAT struct {
	Key []Field
	Map string
}

// Redirect is `redirect`: it translates the connection's destination to this machine itself, to the first address of the
// interface on which the packet arrived, and to a loopback address at output. A packet that arrived on an interface without an
// address of the family is dropped (net/netfilter/nf_nat_redirect.c).
type Redirect struct{}

// Reject is `reject`: it drops the packet and answers with ICMP port unreachable or, for TCP only, with a TCP reset. In
// prerouting it needs Linux 5.9 (nft_reject_validate in net/netfilter/nft_reject.c).
type Reject struct {
	TCPReset bool
}

// Masquerade is `masquerade fully-random`: it replaces the source with the address of the outgoing interface and a random
// port (NF_NAT_RANGE_PROTO_RANDOM_FULLY).
type Masquerade struct{}

// Update is `update @map { key timeout T : data }` followed by a verdict. It adds an element to a dynamic map, or
// restarts the timeout of the element with that key, which keeps its data. Then the verdict applies; the zero Verdict
// continues with the next rule. If the map is full and has no such element, evaluation continues with the next rule as well
// (nft_dynset_eval in net/netfilter/nft_dynset.c).
type Update struct {
	Key, Data []Field
	Map       string
	Timeout   time.Duration
	Then      Verdict
}

// Opaque is a rule that this package cannot express, because another program wrote it into the table. It can be
// compared and printed as a comment, but neither simulated nor written.
type Opaque struct {
	Text string
}

func (In) match()                  {}
func (OfProtocol) match()          {}
func (CtStatusDNAT) match()        {}
func (FibSourceLocal) match()      {}
func (FibDestinationLocal) match() {}
func (EchoRequest) match()         {}
func (InputInterface) match()      {}
func (CounterStatement) match()    {}
func (OverLimit) match()           {}

func (Verdict) action()    {}
func (VerdictMap) action() {}
func (DNAT) action()       {}
func (Redirect) action()   {}
func (Reject) action()     {}
func (Masquerade) action() {}
func (Update) action()     {}
func (Opaque) action()     {}

// same reports whether two rules of a family's table do the same. Counter values are not compared.
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

// refersTo reports whether the rule uses one of the sets.
func (r Rule) refersTo(names []string) bool {
	sets, _ := r.references()
	return slices.ContainsFunc(sets, func(s string) bool { return slices.Contains(names, s) })
}

// references returns the names of the sets that the rule uses and of the chain to which it jumps.
func (r Rule) references() (sets []string, chain string) {
	for _, m := range r.Match {
		switch m := m.(type) {
		case In:
			sets = append(sets, m.Set)
		case OverLimit:
			sets = append(sets, m.Set)
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
