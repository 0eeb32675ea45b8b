package trace

import (
	"net/netip"

	"nfproxy/nft"
)

// Event is one trace event of the kernel, about a packet for which a rule switched tracing on (meta nftrace set 1): a rule
// that matched, or the verdict at the end of a chain.
type Event struct {
	// ID is the same in all events of one packet. A later packet can have the same ID.
	ID   uint32
	Kind EventKind
	// Family, Table and Chain say where the packet is. Family is nft's name: tables of other programs can be of any family.
	Family, Table, Chain string
	// Rule is the handle of the rule of a RuleEvent.
	Rule uint64
	// Verdict is the verdict of the rule or the policy of the chain. The zero Verdict continues with the next rule.
	Verdict nft.Verdict
	// Packet is the packet at this point. The kernel reports it once in every base chain (nft_trace_notify in
	// net/netfilter/nf_tables_trace.c, Linux 6.18); other events have the zero value.
	Packet Packet
}

// EventKind is the kind of an Event.
type EventKind uint8

// The kinds of events: a rule that matched, a chain that returned, the policy of a base chain.
const (
	RuleEvent EventKind = iota + 1
	ReturnEvent
	PolicyEvent
)

// Packet is the header of a packet at some point. In and Out are names of interfaces, empty if the packet has none there.
type Packet struct {
	Protocol            nft.Protocol
	Source, Destination netip.AddrPort
	In, Out             string
}

// Is reports whether the event is in the table.
func (e Event) Is(t nft.TableID) bool { return e.Family == t.Family.String() && e.Table == t.Name }

// TablePrefix is the prefix of the names of all Tracers' tables. Such a table has the family inet. The one rule of its
// TracingChain switches tracing on. Its LeavingChain and ArrivingChain are base chains without rules, in which the kernel
// reports a traced packet after all translation.
const (
	TablePrefix   = "nfproxy-trace-"
	TracingChain  = "tracing"
	LeavingChain  = "leaving"
	ArrivingChain = "arriving"
)

// Begins reports whether the event is the first of a packet that the tracer with this table traces.
func (e Event) Begins(tracer string) bool {
	return e.Family == "inet" && e.Table == tracer && e.Chain == TracingChain && e.Kind == RuleEvent
}

// Ends reports whether the event is the last of a packet: the packet passed all chains, or was dropped.
func (e Event) Ends(tracer string) bool {
	return e.Verdict.Kind == nft.Drop || e.Passed(tracer)
}

// Passed reports whether the packet has passed all chains: it leaves this machine or is delivered to it.
func (e Event) Passed(tracer string) bool {
	return e.Family == "inet" && e.Table == tracer && (e.Chain == LeavingChain || e.Chain == ArrivingChain)
}
