package conntrack

import (
	"fmt"
	"net/netip"

	"nfproxy/nft"
)

// Flow is one entry of the kernel's connection tracking: what the packets of a connection look like, and whether they
// are translated on the way. Connections of protocols without ports are none.
type Flow struct {
	Family   nft.Family
	Protocol nft.Protocol
	// Original are the addresses of the first packet as it came in, Reply those an answer comes in with: it is from
	// where the first packet was sent to.
	Original, Reply Tuple
	// Zone is the zone of the packets in the original direction; 0 is the default, where packets are tracked unless a
	// rule or another program says otherwise.
	Zone uint16
	// ID tells the entry from a later one with the same addresses.
	ID     uint32
	Status Status
}

// Tuple is from where to where packets go.
type Tuple struct {
	Source, Destination netip.AddrPort
}

// FlowStatus is a set of bits, enum ip_conntrack_status in include/uapi/linux/netfilter/nf_conntrack_common.h.
type Status uint32

// SeenReply says that there were packets in both directions.
const SeenReply Status = 1 << 1

// Translated says whether the destination was translated.
func (f Flow) Translated() bool { return f.Reply.Source != f.Original.Destination }

// Answered says whether anybody ever answered.
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

// FlowFilter says which flows to list.
type Filter struct {
	Family   nft.Family
	Protocol nft.Protocol
	// Destination, if valid, is the one destination of the original direction.
	Destination netip.AddrPort
}

// Matches says whether the flow is among those to list.
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
