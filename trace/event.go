package trace

import (
	"net/netip"
	"nfproxy/nft"
)

// TraceEvent is one line of what the kernel tells about a packet that a rule marked (meta nftrace set 1): a rule whose
// matches held, or what became of the packet at a chain's end. Where Trace says what should happen, these say what did.
type Event struct {
	// ID is the same in all events of one packet. Another packet can have it later.
	ID   uint32
	Kind EventKind
	// Family, Table and Chain are where. The family is nft's name for it: tables of others can be of any.
	Family, Table, Chain string
	// Rule is the handle of the rule of a RuleEvent.
	Rule uint64
	// Verdict is the rule's, or the chain's policy. The zero Verdict lets the next rule follow.
	Verdict nft.Verdict
	// Packet is what the packet looked like. The kernel says it once for every base chain the packet comes to
	// (nft_trace_notify in net/netfilter/nf_tables_trace.c, Linux 6.18); other events have the zero value.
	Packet Packet
}

// TraceKind is what a TraceEvent is about.
type EventKind uint8

// The kinds of events: a rule whose matches held, a chain that returned, a base chain's policy.
const (
	RuleEvent EventKind = iota + 1
	ReturnEvent
	PolicyEvent
)

// TracedPacket is what a packet looked like somewhere on its way. Interfaces are names, empty where it has none.
type Packet struct {
	Protocol            nft.Protocol
	Source, Destination netip.AddrPort
	In, Out             string
}

// Is says whether the event is of a table.
func (e Event) Is(t nft.TableID) bool { return e.Family == t.Family.String() && e.Table == t.Name }

// TablePrefix is how the names of the tables of all Tracers begin. Such a table has family inet. Its TracingChain has the
// one rule that switches tracing on; LeavingChain and ArrivingChain are base chains without rules, which show a traced
// packet after all translation.
const (
	TablePrefix   = "nfproxy-trace-"
	TracingChain  = "marks"
	LeavingChain  = "leaving"
	ArrivingChain = "arriving"
)

// Begins says whether the event is the first of a packet that the marker table of that name marked.
func (e Event) Begins(marker string) bool {
	return e.Family == "inet" && e.Table == marker && e.Chain == TracingChain && e.Kind == RuleEvent
}

// Ends says whether the event is the last of such a packet: it got through and leaves the machine, or arrives at it, or
// it was dropped.
func (e Event) Ends(marker string) bool {
	return e.Verdict.Kind == nft.Drop || e.GotThrough(marker)
}

// GotThrough says whether the packet has passed everything there is.
func (e Event) GotThrough(marker string) bool {
	return e.Family == "inet" && e.Table == marker && (e.Chain == LeavingChain || e.Chain == ArrivingChain)
}
