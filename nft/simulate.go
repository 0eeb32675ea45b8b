package nft

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Packet is the first packet of a connection.
type Packet struct {
	// Hook is where it comes in: Prerouting from elsewhere, Output from this machine.
	Hook                Hook
	Protocol            Protocol
	Source, Destination netip.AddrPort
	// Interface is the one it came in by, empty at Output.
	Interface string
	// Draw stands for the random numbers: a RandomNumber of modulus n gives Draw mod n.
	Draw uint32
}

// Outcome is how a packet's way through a table ended.
type Outcome uint8

// The outcomes.
const (
	Accepted Outcome = iota
	Dropped
	// Reset: answered with a TCP reset.
	Reset
	// Unreachable: answered with ICMP port unreachable.
	Unreachable
)

// String returns one word for the outcome.
func (o Outcome) String() string {
	return [...]string{"accepted", "dropped", "reset", "unreachable"}[o]
}

// Path is the way of a packet through a table.
type Path struct {
	Steps   []Step
	Outcome Outcome
	// Destination is where the packet goes, after translation.
	Destination netip.AddrPort
	// Masqueraded: its source is replaced by an address of this machine.
	Masqueraded bool
	// Choices is how many numbers the random draw had that decided the destination, or would have if they had been found,
	// 0 if there was none. Each draw from 0 to Choices-1 is equally likely.
	Choices uint32
	// Unfinished: the way is longer than any that the kernel lets a packet go, and was not followed to its end.
	Unfinished bool
}

// maxSteps is how many rules a packet is followed through. Our longest way has about ten; the kernel refuses loops and
// more than 16 jumps inside each other, a table that was not read from it can have both.
const maxSteps = 1000

// Step is one rule whose matches held.
type Step struct {
	Chain string
	Rule  string
	// Result says what came of it: a verdict, the address a lookup gave, or that it gave none.
	Result string
	// Matched is the rule as a value, Then the verdict that came of it; none if the next rule followed.
	Matched Rule
	Then    Verdict
}

// Trace follows a packet through the table: the base chains of its hook, then, unless it ended there, those at
// postrouting. It reads nothing but the table and the packet.
func Simulate(t *Table, p Packet) Path {
	tr := simulation{table: t, packet: p, path: Path{Destination: p.Destination}}
	for _, hook := range []Hook{p.Hook, Postrouting} {
		for _, c := range t.baseChains(hook) {
			if tr.chain(c) != Drop {
				continue
			}
			if tr.path.Outcome == Accepted { // else a reject said more
				tr.path.Outcome = Dropped
			}
			return tr.path
		}
	}
	return tr.path
}

// baseChains returns the chains at a hook in the order packets see them.
func (t *Table) baseChains(h Hook) []*Chain {
	var chains []*Chain
	for _, c := range t.Chains {
		if c.Hook == h {
			chains = append(chains, c)
		}
	}
	slices.SortStableFunc(chains, func(a, b *Chain) int { return cmp.Compare(a.Priority, b.Priority) })
	return chains
}

// Holds says whether a match holds for a packet when it comes in.
func Holds(t *Table, p Packet, m Match) bool {
	tr := simulation{table: t, packet: p, path: Path{Destination: p.Destination}}
	return tr.match(m)
}

type simulation struct {
	table  *Table
	packet Packet
	path   Path
}

// pass means that a rule does not decide and the next one follows.
const pass VerdictKind = 0

// chain evaluates a chain and those it leads to: Accept or Drop where that is decided, Return at its end.
func (tr *simulation) chain(c *Chain) VerdictKind {
	for _, r := range c.Rules {
		if len(tr.path.Steps) == maxSteps {
			tr.path.Unfinished = true
			return Return
		}
		if !tr.matches(r.Match) {
			continue
		}
		v, result := tr.do(r.Do)
		tr.path.Steps = append(tr.path.Steps, Step{c.Name, r.Text(c.Table.Family), result, r, v})
		switch kind := tr.follow(v); {
		case kind == Accept || kind == Drop || kind == Return:
			return kind
		case v.Kind == Goto: // what follows a goto is never seen
			return Return
		}
	}
	return Return
}

// follow goes where a verdict leads. What returns from a jumped-to chain lets the rules after it go on.
func (tr *simulation) follow(v Verdict) VerdictKind {
	if v.Kind != Jump && v.Kind != Goto {
		return v.Kind
	}
	next := tr.table.Chain(v.Chain)
	if next == nil {
		return pass
	}
	if kind := tr.chain(next); kind != Return {
		return kind
	}
	return pass
}

func (tr *simulation) matches(matches []Match) bool {
	for _, m := range matches {
		if !tr.match(m) {
			return false
		}
	}
	return true
}

func (tr *simulation) match(m Match) bool {
	switch m := m.(type) {
	case In:
		_, found := tr.lookup(m.Key, m.Set)
		return found != m.Not
	case OfProtocol:
		return tr.packet.Protocol == m.Protocol
	case CtStatusDNAT:
		return tr.path.Destination != tr.packet.Destination
	case FibSourceLocal:
		return tr.packet.Hook == Output
	case InputInterface:
		same := tr.packet.Interface == m.Name
		if m.Prefix {
			same = strings.HasPrefix(tr.packet.Interface, m.Name)
		}
		return same != m.Not
	case CounterStatement:
		return true
	}
	return false
}

// do carries an action out: the verdict that follows from it, and the words for it.
func (tr *simulation) do(a Action) (Verdict, string) {
	switch a := a.(type) {
	case Verdict:
		return a, a.String()
	case VerdictMap:
		e, found := tr.lookup(a.Key, a.Map)
		if !found {
			return Verdict{}, "no element"
		}
		return e.Data.Verdict(), e.Data.Verdict().String()
	case DNAT:
		return tr.dnat(a)
	case Reject:
		tr.path.Outcome = Unreachable
		if a.TCPReset {
			tr.path.Outcome = Reset
		}
		return Verdict{Kind: Drop}, tr.path.Outcome.String()
	case Update:
		return tr.remember(a)
	case Masquerade:
		tr.path.Masqueraded = true
		return Verdict{Kind: Accept}, "masqueraded"
	}
	return Verdict{}, fmt.Sprintf("cannot be traced: %T", a)
}

// remember tells by the table as it is: nothing is learnt.
func (tr *simulation) remember(a Update) (Verdict, string) {
	_, known := tr.lookup(a.Key, a.Map)
	if s := tr.table.Set(a.Map); s != nil && !known && s.Size > 0 && len(s.Elements) >= int(s.Size) {
		return Verdict{}, "full: not remembered"
	}
	return a.Then, "remembered, " + a.Then.String()
}

func (tr *simulation) dnat(a DNAT) (Verdict, string) {
	e, found := tr.lookup(a.Key, a.Map)
	if !found {
		return Verdict{}, "no element"
	}
	to := e.Data.Fields(tr.table.Set(a.Map).Data)
	if len(to) != 2 {
		return Verdict{}, "no address and port"
	}
	tr.path.Destination = netip.AddrPortFrom(to[0].Addr(), to[1].Uint16())
	return Verdict{Kind: Accept}, "to " + tr.path.Destination.String()
}

func (tr *simulation) lookup(key []Field, set string) (Element, bool) {
	s := tr.table.Set(set)
	if s == nil {
		return Element{}, false
	}
	var k Value
	for _, f := range key {
		k += tr.field(f)
	}
	return s.Lookup(k)
}

func (tr *simulation) field(f Field) Value {
	switch f.Kind {
	case SourceAddr:
		return Addr(tr.packet.Source.Addr())
	case DestinationAddr:
		return Addr(tr.path.Destination.Addr())
	case OriginalDestinationAddr:
		return Addr(tr.packet.Destination.Addr())
	case L4Protocol:
		return Proto(tr.packet.Protocol)
	case DestinationPort:
		return Port(tr.path.Destination.Port())
	case OriginalDestinationPort:
		return Port(tr.packet.Destination.Port())
	case RandomNumber:
		tr.path.Choices = max(tr.path.Choices, f.Mod)
		return Slot(uint16(tr.packet.Draw % max(f.Mod, 1)))
	}
	return ""
}
