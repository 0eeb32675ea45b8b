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

// String returns nft's name of the protocol, or its number where nft has no name we use.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprint(uint8(p))
}

// ParseProtocol reads "TCP", "udp" and the like. The empty string is TCP, as in the Kubernetes API.
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToUpper(s) {
	case "", "TCP":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q is none of TCP, UDP, SCTP", s)
}

// HasPorts reports whether the protocol is one whose ports Services have: TCP, UDP or SCTP.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }
