// Package ctnetlink lists and deletes entries of the kernel's connection tracking, over netlink. It needs CAP_NET_ADMIN in
// the user namespace that owns the network namespace, and a kernel with CONFIG_NF_CT_NETLINK.
//
// conn.go talks to the kernel, and wire.go encodes requests and decodes entries. Only protocols with ports are supported:
// TCP, UDP and SCTP.
package ctnetlink
