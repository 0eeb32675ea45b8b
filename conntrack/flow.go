package conntrack

import (
	"fmt"
	"net/netip"

	"nfproxy/nft"
)

// Flow is one entry of the kernel's connection tracking: the addresses of a connection's packets in both directions. Only
// connections of protocols with ports are represented.
type Flow struct {
	Family   nft.Family
	Protocol nft.Protocol
	// Original has the addresses of the first packet before translation, Reply those of a reply before translation. The
	// source of a reply is where the first packet was delivered.
	Original, Reply Tuple
	// Zone is the conntrack zone of the original direction. The default is 0, unless a rule assigns another.
	Zone uint16
	// ID distinguishes the entry from a later one with the same addresses.
	ID     uint32
	Status Status
}

// Tuple is the source and the destination of packets in one direction.
type Tuple struct {
	Source, Destination netip.AddrPort
}

// Status is a set of bits, enum ip_conntrack_status in include/uapi/linux/netfilter/nf_conntrack_common.h.
type Status uint32

// SeenReply is set when there were packets in both directions (IPS_SEEN_REPLY).
const SeenReply Status = 1 << 1

// Translated reports whether the destination was translated.
func (f Flow) Translated() bool { return f.Reply.Source != f.Original.Destination }

// Answered reports whether there was ever a reply.
func (f Flow) Answered() bool { return f.Status&SeenReply != 0 }

// String prints the flow for people: "udp 10.0.0.1:53211 > 10.96.0.10:53, answered by 10.244.0.2:53".
func (f Flow) String() string {
	text := fmt.Sprintf("%s %s > %s", f.Protocol, f.Original.Source, f.Original.Destination)
	if f.Translated() {
		text += fmt.Sprintf(", answered by %s", f.Reply.Source)
	}
	if f.Zone != 0 {
		text += fmt.Sprintf(" in zone %d", f.Zone)
	}
	return text
}

// Filter selects flows to list.
type Filter struct {
	Family   nft.Family
	Protocol nft.Protocol
	// Destination, if valid, is the destination in the original direction.
	Destination netip.AddrPort
}

// Matches reports whether the filter selects the flow.
func (l Filter) Matches(f Flow) bool {
	return f.Family == l.Family && f.Protocol == l.Protocol &&
		(!l.Destination.IsValid() || f.Original.Destination == l.Destination)
}

// String prints the filter for people: "ip udp" or "ip udp to 10.96.0.10:53".
func (l Filter) String() string {
	text := l.Family.String() + " " + l.Protocol.String()
	if l.Destination.IsValid() {
		text += " to " + l.Destination.String()
	}
	return text
}
