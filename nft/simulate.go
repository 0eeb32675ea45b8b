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
	// Hook is the first hook that the packet passes: Prerouting for a received packet, Output for one of this machine.
	Hook                Hook
	Protocol            Protocol
	Source, Destination netip.AddrPort
	// Interface is the input interface, empty at Output.
	Interface string
	// Local reports whether an address belongs to this machine. A received packet whose destination, after translation, is
	// such an address is delivered: it passes Input instead of Postrouting. A nil Local stands for a machine without addresses.
	Local func(netip.Addr) bool
	// Draw replaces the random numbers: each RandomNumber with modulus n is Draw mod n, also when the kernel would draw again. So is
	// each ConnectionHash, because the source port of a connection is as good as random.
	Draw uint32
	// OverLimit: the packet exceeds every limit.
	OverLimit bool
}

// Outcome is what finally happens to a packet.
type Outcome uint8

// The outcomes.
const (
	Accepted Outcome = iota
	Dropped
	Reset       // dropped, and answered with a TCP reset
	Unreachable // dropped, and answered with ICMP port unreachable
)

// String returns one word for the outcome.
func (o Outcome) String() string {
	return [...]string{"accepted", "dropped", "reset", "unreachable"}[o]
}

// Path is the way of a packet through a table.
type Path struct {
	Steps   []Step
	Outcome Outcome
	// Destination is the packet's destination after translation.
	Destination netip.AddrPort
	// Delivered reports that the packet was received and its destination is this machine.
	Delivered bool
	// Redirected reports that the destination was translated to this machine itself. Then Destination is a loopback address at
	// Output; at Prerouting it keeps its value, because only the kernel knows the addresses of the input interface.
	Redirected bool
	// Masqueraded reports that the source is replaced with an address of this machine.
	Masqueraded bool
	// Choices is the largest modulus of the random draws on the way, whether or not a lookup found an element, 0 if there
	// was no draw. Each draw from 0 to Choices-1 is equally likely.
	Choices uint32
	// Misses is the number of draws with that modulus that found no element.
	Misses int
	// Unfinished reports that the path was cut off after more steps than the kernel allows a packet.
	Unfinished bool
}

// maxSteps bounds the length of a Path. A path through nfproxy's tables has about ten steps. The kernel refuses loops and
// more than 16 nested jumps, but a table that was not read from a kernel can have both.
const maxSteps = 1000

// Step is one rule whose matches held.
type Step struct {
	Chain string
	Rule  string
	// Result describes the effect of the rule: a verdict, the address that a lookup returned, or that it found none.
	Result string
	// Matched is the rule as a value. Then is the resulting verdict, zero if evaluation continued with the next rule.
	Matched Rule
	Then    Verdict
}

// Simulate follows a packet through the base chains at its hook and then, unless it was dropped, through those at input, if it
// is delivered to this machine, or at postrouting. The result depends only on the table and the packet.
//
// A packet that this machine sends to itself passes postrouting; when it returns by the loopback interface, chains of type nat
// see it no more (nf_nat_inet_fn in net/netfilter/nf_nat_core.c).
func Simulate(t *Table, p Packet) Path {
	s := simulation{table: t, packet: p, path: Path{Destination: p.Destination}}
	if s.hook(p.Hook) {
		s.hook(s.leaves())
	}
	return s.path
}

// leaves returns the second hook that the packet passes.
func (s *simulation) leaves() Hook {
	if s.packet.Hook == Prerouting && (s.path.Redirected || s.local(s.path.Destination.Addr())) {
		s.path.Delivered = true
		return Input
	}
	return Postrouting
}

// local reports whether an address belongs to this machine.
func (s *simulation) local(a netip.Addr) bool { return s.packet.Local != nil && s.packet.Local(a) }

// hook evaluates the base chains at a hook, and reports whether the packet passed them. The kernel evaluates no further chain when
// one has translated the packet (nf_nat_inet_fn).
func (s *simulation) hook(h Hook) bool {
	s.translated = false
	for _, c := range s.table.baseChains(h) {
		if s.chain(c) != Drop {
			if s.translated {
				break
			}
			continue
		}
		if s.path.Outcome == Accepted { // a reject has set another outcome
			s.path.Outcome = Dropped
		}
		return false
	}
	return true
}

// baseChains returns the base chains at a hook in the order in which packets pass them.
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

// Holds reports whether a match holds for a packet before any translation.
func Holds(t *Table, p Packet, m Match) bool {
	s := simulation{table: t, packet: p, path: Path{Destination: p.Destination}}
	return s.match(m)
}

// simulation is one packet on its way through a table. The path grows by a step for each rule that matches; packet keeps
// the original destination.
type simulation struct {
	table  *Table
	packet Packet
	path   Path
	// translated reports that a rule at the current hook has translated an address.
	translated bool
}

// pass means that evaluation continues with the next rule.
const pass VerdictKind = 0

// chain evaluates a chain and the chains to which it leads. It returns Accept or Drop if a rule decides so, else Return.
func (s *simulation) chain(c *Chain) VerdictKind {
	for _, r := range c.Rules {
		if len(s.path.Steps) == maxSteps {
			s.path.Unfinished = true
			return Return
		}
		if !s.matches(r.Match) {
			continue
		}
		v, result := s.do(r.Do)
		s.path.Steps = append(s.path.Steps, Step{c.Name, r.Text(c.Table.Family), result, r, v})
		switch kind := s.follow(v); {
		case kind == Accept || kind == Drop || kind == Return:
			return kind
		case v.Kind == Goto: // a chain entered by goto does not return here
			return Return
		}
	}
	return Return
}

// follow evaluates the chain that a verdict names. It returns pass if that chain returns, and any other verdict as it is.
func (s *simulation) follow(v Verdict) VerdictKind {
	if v.Kind != Jump && v.Kind != Goto {
		return v.Kind
	}
	next := s.table.Chain(v.Chain)
	if next == nil {
		return pass
	}
	if kind := s.chain(next); kind != Return {
		return kind
	}
	return pass
}

func (s *simulation) matches(matches []Match) bool {
	for _, m := range matches {
		if !s.match(m) {
			return false
		}
	}
	return true
}

func (s *simulation) match(m Match) bool {
	switch m := m.(type) {
	case In:
		_, found := s.lookup(m.Key, m.Set)
		return (found && (s.packet.OverLimit || !s.hasLimits(m.Set))) != m.Not
	case OfProtocol:
		return s.packet.Protocol == m.Protocol
	case CtStatusDNAT:
		return s.path.Destination != s.packet.Destination || s.path.Redirected
	case FibSourceLocal:
		return s.packet.Hook == Output
	case FibDestinationLocal:
		return s.local(s.path.Destination.Addr()) != m.Not
	case EchoRequest:
		return s.packet.Protocol == s.table.Family.ICMP()
	case InputInterface:
		same := s.packet.Interface == m.Name
		if m.Prefix {
			same = strings.HasPrefix(s.packet.Interface, m.Name)
		}
		return same != m.Not
	case CounterStatement:
		return true
	case OverLimit:
		return s.packet.OverLimit
	}
	return false
}

// hasLimits reports whether a set has limits.
func (s *simulation) hasLimits(name string) bool {
	set := s.table.Set(name)
	return set != nil && set.Limit != nil
}

// do applies an action and returns the resulting verdict and the text for Step.Result.
func (s *simulation) do(a Action) (Verdict, string) {
	switch a := a.(type) {
	case Verdict:
		return a, a.String()
	case VerdictMap:
		e, found := s.lookup(a.Key, a.Map)
		if !found {
			return Verdict{}, "no element"
		}
		return e.Data.Verdict(), e.Data.Verdict().String()
	case DNAT:
		return s.dnat(a)
	case Reject:
		s.path.Outcome = Unreachable
		if a.TCPReset {
			s.path.Outcome = Reset
		}
		return Verdict{Kind: Drop}, s.path.Outcome.String()
	case Update:
		return s.update(a)
	case Redirect:
		return s.redirect()
	case Masquerade:
		s.path.Masqueraded, s.translated = true, true
		return Verdict{Kind: Accept}, "masqueraded"
	}
	return Verdict{}, fmt.Sprintf("cannot be simulated: %T", a)
}

// update reports what the kernel would do; it does not change the map.
func (s *simulation) update(a Update) (Verdict, string) {
	_, known := s.lookup(a.Key, a.Map)
	m := s.table.Set(a.Map)
	if m != nil && !known && m.Size > 0 && len(m.Elements) >= int(m.Size) {
		return Verdict{}, "full: not remembered"
	}
	if a.Then == (Verdict{}) {
		return a.Then, "remembered"
	}
	return a.Then, "remembered, " + a.Then.String()
}

func (s *simulation) dnat(a DNAT) (Verdict, string) {
	e, found := s.lookup(a.Key, a.Map)
	if !found {
		if s.draws(a.Key) {
			s.path.Misses++
		}
		return Verdict{}, "no element"
	}
	to := e.Data.Fields(s.table.Set(a.Map).Data)
	if len(to) != 2 {
		return Verdict{}, "no address and port"
	}
	s.path.Destination, s.translated = netip.AddrPortFrom(to[0].Addr(), to[1].Uint16()), true
	return Verdict{Kind: Accept}, "to " + s.path.Destination.String()
}

// redirect translates the destination to this machine.
func (s *simulation) redirect() (Verdict, string) {
	s.path.Redirected, s.translated = true, true
	if s.packet.Hook == Output {
		loopback := netip.IPv6Loopback()
		if s.path.Destination.Addr().Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		s.path.Destination = netip.AddrPortFrom(loopback, s.path.Destination.Port())
	}
	return Verdict{Kind: Accept}, "to this node"
}

// draws reports whether fields include a random number with the largest modulus of the path.
func (s *simulation) draws(fields []Field) bool {
	return slices.ContainsFunc(fields, func(f Field) bool {
		return (f.Kind == RandomNumber || f.Kind == ConnectionHash) && f.Mod == s.path.Choices
	})
}

func (s *simulation) lookup(fields []Field, name string) (Element, bool) {
	set := s.table.Set(name)
	if set == nil {
		return Element{}, false
	}
	var key Value
	for _, f := range fields {
		key += s.field(f)
	}
	return set.Lookup(key)
}

// field returns the value of a field at this point of the path.
func (s *simulation) field(f Field) Value {
	switch f.Kind {
	case SourceAddr:
		return Addr(s.packet.Source.Addr())
	case DestinationAddr:
		return Addr(s.path.Destination.Addr())
	case OriginalDestinationAddr:
		return Addr(s.packet.Destination.Addr())
	case L4Protocol:
		return Proto(s.packet.Protocol)
	case DestinationPort:
		return Port(s.path.Destination.Port())
	case OriginalDestinationPort:
		return Port(s.packet.Destination.Port())
	case PacketDirection:
		return Original.Value()
	case ClientHash:
		return Slot(uint16(clientHash(s.packet.Source.Addr(), f.Mod)))
	case RandomNumber, ConnectionHash:
		s.path.Choices = max(s.path.Choices, f.Mod)
		return Slot(uint16(s.packet.Draw % max(f.Mod, 1)))
	}
	return ""
}
