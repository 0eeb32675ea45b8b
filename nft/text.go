package nft

import (
	"fmt"
	"strings"
)

// String prints the table in nft's syntax, which nft -f loads. Equal tables give equal text.
func (t *Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s {\n", t.TableID)
	if t.Owner {
		b.WriteString("\tflags owner\n")
	}
	if t.Dormant {
		b.WriteString("\tflags dormant\n")
	}
	if t.Comment != "" {
		fmt.Fprintf(&b, "\tcomment %q\n", t.Comment)
	}
	for _, s := range t.Sets {
		b.WriteByte('\n')
		s.print(&b)
	}
	for _, c := range t.Chains {
		b.WriteByte('\n')
		c.print(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Set) print(b *strings.Builder) {
	fmt.Fprintf(b, "\t%s %s {\n", s.keyword(), s.Name)
	for _, line := range s.declaration() {
		fmt.Fprintf(b, "\t\t%s\n", line)
	}
	if len(s.Elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for i, e := range s.Elements {
			b.WriteString("\t\t\t" + s.elementText(e))
			if i < len(s.Elements)-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

// keyword returns nft's keyword for the set.
func (s *Set) keyword() string {
	if s.IsMap() {
		return "map"
	}
	return "set"
}

// declaration returns the lines of the set's block other than its elements.
func (s *Set) declaration() []string {
	lines := []string{s.typeText()}
	var flags []string
	if s.Interval {
		flags = append(flags, "interval")
	}
	if s.Dynamic {
		flags = append(flags, "dynamic", "timeout")
	}
	if flags != nil {
		lines = append(lines, "flags "+strings.Join(flags, ","))
	}
	if s.Size > 0 {
		lines = append(lines, fmt.Sprintf("size %d", s.Size))
	}
	if s.Counter {
		lines = append(lines, "counter")
	}
	if s.Limit != nil {
		lines = append(lines, s.Limit.String())
	}
	return lines
}

// typeText prints the set's type. nft has no name for SlotNumber: such a set is declared by expressions (typeof).
func (s *Set) typeText() string {
	keyword, name := "type", Type.name
	for _, t := range s.Key {
		if t == SlotNumber {
			keyword, name = "typeof", Type.expression
		}
	}
	text := keyword + " " + joinTypes(s.Key, name)
	if s.IsMap() {
		text += " : " + joinTypes(s.Data, name)
	}
	return text
}

func joinTypes(types []Type, name func(Type) string) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = name(t)
	}
	return strings.Join(names, " . ")
}

// name returns nft's name of the type.
func (t Type) name() string {
	return [...]string{"unknown", "ipv4_addr", "ipv6_addr", "inet_proto", "inet_service", "integer", "ct_dir", "verdict", "limit"}[t]
}

// expression returns an expression of that type, for typeof. nft stores it with the set and uses it to print elements.
func (t Type) expression() string {
	return [...]string{"unknown", "ip daddr", "ip6 daddr", "meta l4proto", "th dport", "numgen random mod 65535", "ct direction", "verdict", "limit"}[t]
}

func (s *Set) elementText(e Element) string {
	text := s.keyText(e)
	if !s.IsMap() && s.Data != nil {
		text += " " + e.Data.text(s.Data)
	}
	if e.Counter != nil {
		text += " " + e.Counter.text()
	}
	if e.Comment != "" {
		text += fmt.Sprintf(" comment %q", e.Comment)
	}
	if s.IsMap() {
		text += " : " + e.Data.text(s.Data)
	}
	return text
}

func (c Counter) text() string { return fmt.Sprintf("counter packets %d bytes %d", c.Packets, c.Bytes) }

func (s *Set) keyText(e Element) string {
	if e.Key == "" {
		return "*"
	}
	if s.Interval {
		return e.Key.intervalText(s.Key)
	}
	return e.Key.text(s.Key)
}

func (c *Chain) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != NoHook {
		fmt.Fprintf(b, "\t\t%s\n", c.hookText())
	}
	for _, r := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", r.Text(c.Table.Family))
	}
	b.WriteString("\t}\n")
}

// hookText prints the priority as a number: nft 1.0.6 has no name for the priority of a nat chain at output.
func (c *Chain) hookText() string {
	return fmt.Sprintf("type nat hook %s priority %d; policy accept;", c.Hook, c.Priority)
}

// Text prints the rule in nft's syntax, for a table of that family.
func (r Rule) Text(f Family) string {
	var parts []string
	for _, m := range r.Match {
		parts = append(parts, matchText(f, m))
	}
	return strings.Join(append(parts, actionText(f, r.Do)), " ")
}

func matchText(f Family, m Match) string {
	switch m := m.(type) {
	case In:
		if m.Not {
			return keyText(f, m.Key) + " != @" + m.Set
		}
		return keyText(f, m.Key) + " @" + m.Set
	case OfProtocol:
		return "meta l4proto " + m.Protocol.String()
	case CtStatusDNAT:
		return "ct status & dnat == dnat"
	case FibSourceLocal:
		return "fib saddr type local"
	case FibDestinationLocal:
		if m.Not {
			return "fib daddr type != local"
		}
		return "fib daddr type local"
	case EchoRequest:
		return f.ICMP().keyword() + " type echo-request"
	case InputInterface:
		return m.text()
	case CounterStatement:
		return m.text()
	case OverLimit:
		return fmt.Sprintf("update @%s { %s timeout %ds }", m.Set, keyText(f, m.Key), int64(m.Timeout.Seconds()))
	}
	return fmt.Sprintf("# no text for %T", m)
}

func (m InputInterface) text() string {
	name, op := m.Name, ""
	if m.Prefix {
		name += "*"
	}
	if m.Not {
		op = "!= "
	}
	return fmt.Sprintf("iifname %s%q", op, name)
}

func actionText(f Family, a Action) string {
	switch a := a.(type) {
	case Verdict:
		return a.String()
	case VerdictMap:
		return keyText(f, a.Key) + " vmap @" + a.Map
	case DNAT:
		return fmt.Sprintf("dnat %s to %s map @%s", f, keyText(f, a.Key), a.Map)
	case Redirect:
		return "redirect"
	case Reject:
		if a.TCPReset {
			return "reject with tcp reset"
		}
		return "reject"
	case Masquerade:
		return "masquerade fully-random"
	case Update:
		text := fmt.Sprintf("update @%s { %s timeout %ds : %s }", a.Map, keyText(f, a.Key), int64(a.Timeout.Seconds()), keyText(f, a.Data))
		if a.Then != (Verdict{}) {
			text += " " + a.Then.String()
		}
		return text
	case Opaque:
		return "# " + a.Text
	}
	return fmt.Sprintf("# no text for %T", a)
}

func keyText(f Family, key []Field) string {
	parts := make([]string, len(key))
	for i, field := range key {
		parts[i] = field.text(f)
	}
	return strings.Join(parts, " . ")
}

func (field Field) text(f Family) string {
	switch field.Kind {
	case SourceAddr:
		return f.String() + " saddr"
	case DestinationAddr:
		return f.String() + " daddr"
	case L4Protocol:
		return "meta l4proto"
	case DestinationPort:
		return "th dport"
	case RandomNumber:
		return fmt.Sprintf("numgen random mod %d", field.Mod)
	case ClientHash:
		return fmt.Sprintf("jhash %s saddr mod %d seed 0x%x", f, field.Mod, HashSeed)
	case ConnectionHash:
		return fmt.Sprintf("jhash %s saddr . th sport mod %d seed 0x%x", f, field.Mod, HashSeed)
	case OriginalDestinationAddr:
		return fmt.Sprintf("ct original %s daddr", f)
	case OriginalDestinationPort:
		return "ct original proto-dst"
	case PacketDirection:
		return "ct direction"
	}
	return fmt.Sprintf("# no text for field %d", field.Kind)
}
