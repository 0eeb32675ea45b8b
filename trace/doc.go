// Package trace follows real packets through the kernel: the first packets of new connections to a Service, through the
// chains of all nftables tables. The kernel itself reports each step (nftrace). nft.Simulate computes what should become
// of a packet; this package shows what did.
//
// A Session (follow.go) has three parts. A Tracer (tracer.go) is a table whose rules switch nftrace on for the packets. A
// Listener (listener.go) receives trace events (event.go) over netlink. packets.go groups the events by packet, and
// packet_trace.go turns the events of one packet into a PacketTrace, which text.go prints; these two are pure.
package trace
