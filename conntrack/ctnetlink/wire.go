package ctnetlink

import (
	"cmp"
	"net/netip"

	"nfproxy/conntrack"
	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// Messages and attributes of connection tracking, from include/uapi/linux/netfilter/nfnetlink_conntrack.h: enum
// cntl_msg_types, ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto, ctattr_stats_global and ctattr_filter.
const (
	ctGet      = 1 // IPCTNL_MSG_CT_GET
	ctDelete   = 2
	ctGetStats = 5

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25
	ctaStatusMask = 26

	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Source      = 1
	ctaIPv4Destination = 2
	ctaIPv6Source      = 3
	ctaIPv6Destination = 4

	ctaProtoNumber          = 1
	ctaProtoSourcePort      = 2
	ctaProtoDestinationPort = 3

	ctaStatsEntries = 1 // CTA_STATS_GLOBAL_ENTRIES

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2

	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1
)

// States of TCP connections in which both sides have closed, from enum tcp_conntrack in
// include/uapi/linux/netfilter/nf_conntrack_tcp.h.
const (
	tcpTimeWait = 7 // TCP_CONNTRACK_TIME_WAIT
	tcpClose    = 8 // TCP_CONNTRACK_CLOSE, after a reset too
)

// The fields of a tuple that a filter can compare: CTA_FILTER_F_* in net/netfilter/nf_internals.h.
const (
	filterIPSource        = 1 << 0
	filterIPDestination   = 1 << 1
	filterProtocol        = 1 << 3
	filterSourcePort      = 1 << 4
	filterDestinationPort = 1 << 5
)

// appendFilter appends the parts of the filter that the kernel can compare (ctnetlink_filter_match_tuple in
// net/netfilter/nf_conntrack_netlink.c). Kernels before Linux 5.8 ignore them. The flags, in the CPU's byte order, select
// the fields of the tuple that are compared.
//
// IPv6 addresses are left out: Linux 5.8 to 6.18 invert their comparison and list all flows except those requested. SCTP
// ports are left out because the kernel compares only the ports of TCP and UDP.
func appendFilter(m *nlmsg.Message, l conntrack.Filter) {
	original := filterSide{addr: l.Destination.Addr(), port: l.Destination.Port(), addrKind: ctaIPv4Destination, addrFlag: filterIPDestination,
		portKind: ctaProtoDestinationPort, portFlag: filterDestinationPort}
	reply := filterSide{addr: l.Endpoint.Addr(), port: cmp.Or(l.EndpointPort, l.Endpoint.Port()), addrKind: ctaIPv4Source, addrFlag: filterIPSource,
		portKind: ctaProtoSourcePort, portFlag: filterSourcePort}
	filter := m.Nest(ctaFilter)
	m.Bytes(ctaFilterOrigFlags, nlmsg.NativeBytes(original.flags(l.Protocol)))
	if reply.used() {
		m.Bytes(ctaFilterReplyFlags, nlmsg.NativeBytes(reply.flags(l.Protocol)))
	}
	m.Unnest(filter)
	original.append(m, ctaTupleOrig, l.Protocol)
	if reply.used() {
		reply.append(m, ctaTupleReply, l.Protocol)
	}
	if l.DestinationNAT {
		m.Uint32(ctaStatus, uint32(conntrack.DestinationNAT))
		m.Uint32(ctaStatusMask, uint32(conntrack.DestinationNAT))
	}
}

// filterSide is an address and port that one tuple of a filter compares, with the attributes and the flags of both. An address
// that is not valid and port 0 are not compared.
type filterSide struct {
	addr               netip.Addr
	port               uint16
	addrKind, portKind uint16
	addrFlag, portFlag uint32
}

func (s filterSide) used() bool { return s.addr.IsValid() || s.port != 0 }

// flags returns the flags of the fields that the kernel compares.
func (s filterSide) flags(p nft.Protocol) uint32 {
	flags := uint32(filterProtocol)
	if s.addr.Is4() {
		flags |= s.addrFlag
	}
	if s.used() && p != nft.SCTP {
		flags |= s.portFlag
	}
	return flags
}

// append appends the tuple.
func (s filterSide) append(m *nlmsg.Message, kind uint16, p nft.Protocol) {
	flags := s.flags(p)
	tuple := m.Nest(kind)
	if flags&s.addrFlag != 0 {
		ip := m.Nest(ctaTupleIP)
		m.Bytes(s.addrKind, s.addr.AsSlice())
		m.Unnest(ip)
	}
	proto := m.Nest(ctaTupleProto)
	m.Bytes(ctaProtoNumber, []byte{byte(p)})
	if flags&s.portFlag != 0 {
		m.Uint16(s.portKind, s.port)
	}
	m.Unnest(proto)
	m.Unnest(tuple)
}

// appendTuple appends a complete tuple.
func appendTuple(m *nlmsg.Message, kind uint16, p nft.Protocol, t conntrack.Tuple) {
	source, destination := uint16(ctaIPv6Source), uint16(ctaIPv6Destination)
	if t.Source.Addr().Is4() {
		source, destination = ctaIPv4Source, ctaIPv4Destination
	}
	tuple := m.Nest(kind)
	ip := m.Nest(ctaTupleIP)
	m.Bytes(source, t.Source.Addr().AsSlice())
	m.Bytes(destination, t.Destination.Addr().AsSlice())
	m.Unnest(ip)
	proto := m.Nest(ctaTupleProto)
	m.Bytes(ctaProtoNumber, []byte{byte(p)})
	m.Uint16(ctaProtoSourcePort, t.Source.Port())
	m.Uint16(ctaProtoDestinationPort, t.Destination.Port())
	m.Unnest(proto)
	m.Unnest(tuple)
}

// decodeFlow decodes an entry. It returns false if the protocol has no ports.
//
// A zone can apply to one direction only and is then an attribute of that direction's tuple (ctnetlink_dump_zone_id in
// net/netfilter/nf_conntrack_netlink.c). The kernel finds an entry by its original tuple only in the zone of the original
// direction (nf_ct_zone_equal in include/net/netfilter/nf_conntrack_zones.h).
func decodeFlow(f nft.Family, body []byte) (conntrack.Flow, bool) {
	flow := conntrack.Flow{Family: f}
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case ctaTupleOrig:
			var zone uint16
			if flow.Protocol, zone, flow.Original = decodeTuple(b); zone != 0 {
				flow.Zone = zone
			}
		case ctaTupleReply:
			_, _, flow.Reply = decodeTuple(b)
		case ctaZone:
			flow.Zone = uint16(nlmsg.Number(b))
		case ctaID:
			flow.ID = uint32(nlmsg.Number(b))
		case ctaStatus:
			flow.Status = conntrack.Status(nlmsg.Number(b))
		case ctaProtoInfo:
			flow.Closed = decodeClosed(b)
		}
	}
	return flow, flow.Protocol.HasPorts()
}

// decodeClosed reports whether the state of a TCP connection is one in which both sides have closed.
func decodeClosed(info []byte) bool {
	for kind, b := range nlmsg.Attributes(info) {
		if kind != ctaProtoInfoTCP {
			continue
		}
		for kind, b := range nlmsg.Attributes(b) {
			if kind == ctaProtoInfoTCPState {
				state := nlmsg.Number(b)
				return state == tcpTimeWait || state == tcpClose
			}
		}
	}
	return false
}

func decodeTuple(b []byte) (p nft.Protocol, zone uint16, t conntrack.Tuple) {
	var source, destination netip.Addr
	var sourcePort, destinationPort uint16
	for kind, b := range nlmsg.Attributes(b) {
		switch kind {
		case ctaTupleIP:
			source, destination = decodeTupleIP(b)
		case ctaTupleProto:
			p, sourcePort, destinationPort = decodeTupleProto(b)
		case ctaTupleZone:
			zone = uint16(nlmsg.Number(b))
		}
	}
	return p, zone, conntrack.Tuple{Source: netip.AddrPortFrom(source, sourcePort),
		Destination: netip.AddrPortFrom(destination, destinationPort)}
}

func decodeTupleIP(b []byte) (source, destination netip.Addr) {
	for kind, b := range nlmsg.Attributes(b) {
		switch kind {
		case ctaIPv4Source, ctaIPv6Source:
			source, _ = netip.AddrFromSlice(b)
		case ctaIPv4Destination, ctaIPv6Destination:
			destination, _ = netip.AddrFromSlice(b)
		}
	}
	return source, destination
}

func decodeTupleProto(b []byte) (p nft.Protocol, source, destination uint16) {
	for kind, b := range nlmsg.Attributes(b) {
		switch kind {
		case ctaProtoNumber:
			p = nft.Protocol(nlmsg.Number(b))
		case ctaProtoSourcePort:
			source = uint16(nlmsg.Number(b))
		case ctaProtoDestinationPort:
			destination = uint16(nlmsg.Number(b))
		}
	}
	return p, source, destination
}
