package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/nlmsg"
)

// Listener receives the trace events of one network namespace, whichever program traces the packets.
type Listener struct {
	nl      *nlmsg.Socket
	pending []Event // of the last datagram
}

// ErrMissed is the error of Next when the kernel sent more events than the socket could hold. The next call continues
// after the gap.
var ErrMissed = errors.New("the kernel sent more trace events than could be read")

// Listen begins to receive the trace events of the calling thread's network namespace.
func Listen() (*Listener, error) {
	s, err := nlmsg.Dial()
	if err != nil {
		return nil, err
	}
	if err := s.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		s.Close()
		return nil, fmt.Errorf("join the netlink group of trace events: %w", err)
	}
	return &Listener{nl: s}, nil
}

// Close closes the socket. A pending call of Next returns.
func (l *Listener) Close() error { return l.nl.Close() }

// Next blocks until there is an event and returns it. After Close it returns an error that wraps os.ErrClosed.
func (l *Listener) Next() (Event, error) {
	for len(l.pending) == 0 {
		b, err := l.nl.Receive(true)
		if errors.Is(err, unix.ENOBUFS) {
			return Event{}, ErrMissed
		}
		if err != nil {
			return Event{}, fmt.Errorf("receive trace events: %w", err)
		}
		l.pending = l.pending[:0]
		for h, body := range nlmsg.Messages(b) {
			if h.Type == nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_TRACE) && len(body) >= nlmsg.NFGenLen {
				l.pending = append(l.pending, l.decode(body[0], body[nlmsg.NFGenLen:]))
			}
		}
	}
	e := l.pending[0]
	l.pending = l.pending[1:]
	return e, nil
}

// decode decodes an event (enum nft_trace_attributes in include/uapi/linux/netfilter/nf_tables.h).
func (l *Listener) decode(family uint8, body []byte) Event {
	e := Event{Family: familyName(family)}
	var network, transport []byte
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_TRACE_ID:
			e.ID = uint32(nlmsg.Number(b))
		case unix.NFTA_TRACE_TYPE:
			e.Kind = traceKind(uint32(nlmsg.Number(b)))
		case unix.NFTA_TRACE_TABLE:
			e.Table = nlmsg.CString(b)
		case unix.NFTA_TRACE_CHAIN:
			e.Chain = nlmsg.CString(b)
		case unix.NFTA_TRACE_RULE_HANDLE:
			e.Rule = nlmsg.Number(b)
		case unix.NFTA_TRACE_VERDICT:
			e.Verdict = tracedVerdict(kernel.DecodeVerdict(b))
		case unix.NFTA_TRACE_POLICY:
			e.Verdict.Kind = kernel.VerdictOf(int32(nlmsg.Number(b)))
		case unix.NFTA_TRACE_NETWORK_HEADER:
			network = b
		case unix.NFTA_TRACE_TRANSPORT_HEADER:
			transport = b
		case unix.NFTA_TRACE_IIF:
			e.Packet.In = l.interfaceName(uint32(nlmsg.Number(b)))
		case unix.NFTA_TRACE_OIF:
			e.Packet.Out = l.interfaceName(uint32(nlmsg.Number(b)))
		}
	}
	if e.Kind == RuleEvent && e.Rule == 0 {
		// The end of a chain reached by goto: Linux 6.18 reports it as a rule without a handle (nft_trace_fill_rule_info).
		e.Kind = ReturnEvent
	}
	decodeHeaders(&e.Packet, network, transport)
	return e
}

// tracedVerdict returns the zero Verdict for NFT_CONTINUE, with which rules of other programs end.
func tracedVerdict(v nft.Verdict) nft.Verdict {
	if v.Kind == kernel.VerdictOf(unix.NFT_CONTINUE) {
		return nft.Verdict{}
	}
	return v
}

func traceKind(n uint32) EventKind {
	switch n {
	case unix.NFT_TRACETYPE_RULE:
		return RuleEvent
	case unix.NFT_TRACETYPE_RETURN:
		return ReturnEvent
	case unix.NFT_TRACETYPE_POLICY:
		return PolicyEvent
	}
	return 0
}

// familyName is nft's name of a netfilter family (NFPROTO_* in include/uapi/linux/netfilter.h).
func familyName(n uint8) string {
	switch n {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_ARP:
		return "arp"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	}
	return fmt.Sprintf("family-%d", n)
}

// decodeHeaders decodes the addresses and ports of a packet from the beginning of its IP header (RFC 791 section 3.1, RFC
// 8200 section 3) and of its TCP, UDP or SCTP header, which begins with the ports.
func decodeHeaders(p *Packet, network, transport []byte) {
	var source, destination []byte
	switch {
	case len(network) >= 20 && network[0]>>4 == 4:
		p.Protocol, source, destination = nft.Protocol(network[9]), network[12:16], network[16:20]
	case len(network) >= 40 && network[0]>>4 == 6:
		p.Protocol, source, destination = nft.Protocol(network[6]), network[8:24], network[24:40]
	default:
		return
	}
	var ports [2]uint16
	if len(transport) >= 4 && p.Protocol.HasPorts() {
		ports = [2]uint16{binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])}
	}
	from, _ := netip.AddrFromSlice(source)
	to, _ := netip.AddrFromSlice(destination)
	p.Source, p.Destination = netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1])
}

// interfaceName returns the name of an interface in the socket's network namespace, or its index if the interface no longer
// exists. Any socket can ask (netdevice(7), SIOCGIFNAME).
func (l *Listener) interfaceName(index uint32) string {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return fmt.Sprint(index)
	}
	ifr.SetUint32(index)
	cerr := l.nl.Raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, ifr) })
	if errors.Join(err, cerr) != nil {
		return fmt.Sprint(index)
	}
	return ifr.Name()
}
