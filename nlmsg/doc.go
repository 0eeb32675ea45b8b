// Package nlmsg writes and reads netlink messages of the netfilter subsystems and exchanges them with the kernel.
//
// Message appends messages and their attributes to one buffer. Messages and Attributes iterate over received bytes without
// copying them. A Socket sends a request and passes the answers on (Exchange), or sends and receives whole datagrams
// (Send, Receive).
//
// # Watching the traffic
//
// The socket belongs to github.com/mdlayher/netlink, but Send and Receive bypass that library: it allocates memory for
// each message and cannot send the messages of a batch as one buffer. So its debug switch, NLDEBUG, prints nothing of what
// this package sends or receives. Other tools show it:
//
//	strace -f -e trace=sendto,read -p PID      # every datagram of a process; strace decodes the headers sent
//	ip link add nlmon0 type nlmon && ip link set nlmon0 up && tcpdump -i nlmon0 -w netlink.pcap
//	                                           # all netlink traffic of a network namespace, for Wireshark
//	nft monitor                                # commits to nf_tables, as nft commands
//	nft --debug=netlink list ruleset           # the expressions that the kernel has
package nlmsg
