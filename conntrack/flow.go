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
	// Closed is set for a TCP connection that both sides have closed or one has reset: the entry only waits for late packets.
	Closed bool
}

// Tuple is the source and the destination of packets in one direction.
type Tuple struct {
	Source, Destination netip.AddrPort
}

// Status is a set of bits, enum ip_conntrack_status in include/uapi/linux/netfilter/nf_conntrack_common.h.
type Status uint32

// Bits of a Status.
const (
	SeenReply      Status = 1 << 1 // there were packets in both directions (IPS_SEEN_REPLY)
	DestinationNAT Status = 1 << 5 // the destination is translated (IPS_DST_NAT)
)

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
	// DestinationNAT selects only flows with that bit of Status.
	DestinationNAT bool
	// Endpoint, if valid, is the source of replies, and EndpointPort, if not 0, is only its port.
	Endpoint     netip.AddrPort
	EndpointPort uint16
}

// Matches reports whether the filter selects the flow.
func (l Filter) Matches(f Flow) bool {
	return f.Family == l.Family && f.Protocol == l.Protocol &&
		(!l.Destination.IsValid() || f.Original.Destination == l.Destination) &&
		(!l.DestinationNAT || f.Status&DestinationNAT != 0) &&
		(!l.Endpoint.IsValid() || f.Reply.Source == l.Endpoint) &&
		(l.EndpointPort == 0 || f.Reply.Source.Port() == l.EndpointPort)
}

// String prints the filter for people: "ip udp", "ip udp to 10.96.0.10:53" or "ip tcp answered by 10.244.1.2:80".
func (l Filter) String() string {
	text := l.Family.String() + " " + l.Protocol.String()
	if l.Destination.IsValid() {
		text += " to " + l.Destination.String()
	}
	switch {
	case l.Endpoint.IsValid():
		text += " answered by " + l.Endpoint.String()
	case l.EndpointPort != 0:
		text += fmt.Sprintf(" answered by port %d", l.EndpointPort)
	case l.DestinationNAT:
		text += " with a translated destination"
	}
	return text
}
