package nft

import (
	"fmt"
	"strings"
)

// Protocol is a layer 4 protocol, by its IP protocol number.
type Protocol uint8

// The protocols a frontend can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// The protocols of pings. No frontend has them.
const (
	ICMP   Protocol = 1
	ICMPv6 Protocol = 58
)

// ICMP returns the protocol of pings to addresses of the family.
func (f Family) ICMP() Protocol {
	if f == IPv6 {
		return ICMPv6
	}
	return ICMP
}

// keyword returns the word that begins nft's expressions for headers of the protocol.
func (p Protocol) keyword() string {
	if p == ICMPv6 {
		return "icmpv6"
	}
	return p.String()
}

// String returns nft's name of the protocol, or the number of any other protocol.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	case ICMP:
		return "icmp"
	case ICMPv6:
		return "ipv6-icmp"
	}
	return fmt.Sprint(uint8(p))
}

// ParseProtocol parses the name of a protocol in upper or lower case. The empty string means TCP, as in the Kubernetes
// API.
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToUpper(s) {
	case "", "TCP":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q is not one of TCP, UDP, SCTP", s)
}

// HasPorts reports whether Services can have ports of the protocol: TCP, UDP or SCTP.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }
