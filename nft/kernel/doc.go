// Package kernel reads nft tables from one network namespace and applies changes to them, over netlink.
//
// It is the only place with registers, offsets and attribute numbers, and the only one that needs a privilege
// (CAP_NET_ADMIN in the network namespace's user namespace). It touches no table but those it is given.
//
// Expressions are encoded by github.com/google/nftables/expr. The batch is our own, on github.com/mdlayher/netlink:
// that library's has no way to attach the userdata without which nft cannot list the endpoints maps, asks for no offset
// in errors, and allocates per element. A batch here is one buffer, and an error of the kernel names the change and
// the element it is about.
//
// The tests pass on Linux 6.1 and 6.18.
package kernel
