package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// Type is the type of one field of a set's key or data.
type Type uint8

// The types of fields. A key or a data value is a concatenation of them.
const (
	UnknownType Type = iota // any type of another program's set that is not listed here
	IPv4Addr
	IPv6Addr
	InetProto
	InetService
	// SlotNumber is the type of a random number, a uint16. nft has no name for it: a set with such a field is
	// declared by expressions (typeof) instead of by types.
	SlotNumber
	// CtDirection is the type of a Direction.
	CtDirection
	// VerdictType is the type of a verdict map's data. It is never part of a concatenation.
	VerdictType
	// LimitType is the type of the data of a set whose elements have limits: see Set.Limit. It is never part of a concatenation.
	LimitType
)

// Width returns the number of bytes that a field of the type takes in a Value, or -1 if it takes all remaining bytes.
func (t Type) Width() int {
	switch t {
	case IPv4Addr:
		return 4
	case IPv6Addr:
		return 16
	case InetProto, CtDirection:
		return 1
	case InetService, SlotNumber:
		return 2
	}
	return -1
}

// Value is the key or the data of an element: its fields one after the other, in network byte order and without
// padding, so that values can be compared, sorted and joined with +. The types in the set's declaration tell how to read
// it. A key of an interval set consists of the first and the last value of the interval.
type Value string

// Addr returns an address as a Value.
func Addr(a netip.Addr) Value { return Value(a.AsSlice()) }

// Proto returns a layer 4 protocol as a Value.
func Proto(p Protocol) Value { return Value([]byte{byte(p)}) }

// Direction is the direction of a packet in its connection, as the kernel numbers it (enum ip_conntrack_dir in
// include/uapi/linux/netfilter/nf_conntrack_tuple_common.h).
type Direction uint8

// The directions.
const (
	Original Direction = iota // that of the first packet
	Reply
)

// String returns nft's name of the direction.
func (d Direction) String() string {
	switch d {
	case Original:
		return "original"
	case Reply:
		return "reply"
	}
	return fmt.Sprint(uint8(d))
}

// Value returns the direction as a Value.
func (d Direction) Value() Value { return Value([]byte{byte(d)}) }

// Port returns a layer 4 port as a Value.
func Port(p uint16) Value { return Value(binary.BigEndian.AppendUint16(nil, p)) }

// Slot returns the result of a random draw as a Value.
func Slot(n uint16) Value { return Port(n) }

// Interval returns the key of an interval set that covers the addresses of a prefix.
func Interval(p netip.Prefix) Value {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	return Addr(p.Masked().Addr()) + Value(last)
}

// VerdictKind is the kind of a Verdict.
type VerdictKind uint8

// The verdicts of rules and of verdict maps.
const (
	Accept VerdictKind = iota + 1
	Drop
	Return
	Jump
	Goto
)

// Verdict is what a rule or an element of a verdict map decides. Jump and Goto name a chain.
type Verdict struct {
	Kind  VerdictKind
	Chain string
}

// GotoChain returns the verdict that continues in a chain and does not return from it.
func GotoChain(name string) Verdict { return Verdict{Goto, name} }

// Value returns the verdict as an element's data.
func (v Verdict) Value() Value { return Value(byte(v.Kind)) + Value(v.Chain) }

// Verdict returns the verdict in the data of a verdict map's element.
func (v Value) Verdict() Verdict {
	if v == "" {
		return Verdict{}
	}
	return Verdict{VerdictKind(v[0]), string(v[1:])}
}

// String returns the verdict as nft writes it.
func (v Verdict) String() string {
	switch v.Kind {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Return:
		return "return"
	case Jump:
		return "jump " + v.Chain
	case Goto:
		return "goto " + v.Chain
	}
	return fmt.Sprintf("verdict-%d %s", v.Kind, v.Chain)
}

// Fields splits a value into fields of the given types. It returns nil if the value does not fit them.
func (v Value) Fields(types []Type) []Value {
	fields := make([]Value, 0, len(types))
	for _, t := range types {
		n := t.Width()
		if n < 0 {
			n = len(v)
		}
		if n > len(v) {
			return nil
		}
		fields = append(fields, v[:n])
		v = v[n:]
	}
	if v != "" {
		return nil
	}
	return fields
}

// Addr returns a field of type IPv4Addr or IPv6Addr; the zero Addr if it is neither.
func (v Value) Addr() netip.Addr {
	a, _ := netip.AddrFromSlice([]byte(v))
	return a
}

// Uint16 returns a field of type InetService or SlotNumber; 0 if it is neither.
func (v Value) Uint16() uint16 {
	if len(v) != 2 {
		return 0
	}
	return uint16(v[0])<<8 | uint16(v[1])
}

// Proto returns a field of type InetProto; 0 if it is not one.
func (v Value) Proto() Protocol {
	if len(v) != 1 {
		return 0
	}
	return Protocol(v[0])
}

// text prints a value of the given types as nft writes it.
func (v Value) text(types []Type) string {
	fields := v.Fields(types)
	if fields == nil {
		return fmt.Sprintf("%#x", string(v))
	}
	parts := make([]string, len(fields))
	for i, f := range fields {
		parts[i] = f.fieldText(types[i])
	}
	return strings.Join(parts, " . ")
}

// fieldText prints one field as nft writes it.
func (v Value) fieldText(t Type) string {
	switch t {
	case IPv4Addr, IPv6Addr:
		return v.Addr().String()
	case InetProto:
		return v.Proto().String()
	case InetService, SlotNumber:
		return fmt.Sprint(v.Uint16())
	case CtDirection:
		return Direction(v[0]).String()
	case VerdictType:
		if v != "" {
			return v.Verdict().String()
		}
	case LimitType:
		return v.Limit().String()
	}
	return fmt.Sprintf("%#x", string(v))
}

// intervalText prints an interval set's key field by field, as a single value, as a prefix, or else as first-last.
func (v Value) intervalText(types []Type) string {
	first, last := v[:len(v)/2].Fields(types), v[len(v)/2:].Fields(types)
	if first == nil || last == nil {
		return fmt.Sprintf("%#x", string(v))
	}
	parts := make([]string, len(types))
	for i, t := range types {
		parts[i] = first[i].fieldText(t)
		if first[i] == last[i] {
			continue
		}
		if p, ok := (first[i] + last[i]).prefix(); ok {
			parts[i] = p.String()
		} else {
			parts[i] += "-" + last[i].fieldText(t)
		}
	}
	return strings.Join(parts, " . ")
}

// prefix returns the prefix that covers the same addresses as an interval, if there is one.
func (v Value) prefix() (netip.Prefix, bool) {
	first, last := v[:len(v)/2], v[len(v)/2:]
	bits := 0
	for bits < len(first)*8 && (first[bits/8]^last[bits/8])&(0x80>>(bits%8)) == 0 {
		bits++
	}
	p := netip.PrefixFrom(first.Addr(), bits)
	return p, p.IsValid() && Interval(p) == v
}
