// Package faults tests nfproxy while its system calls fail. A supervisor (seccomp_unotify(2)) decides about every call of the
// real program that sends to or receives from a netlink socket of netfilter: whether the kernel executes it, or whether it
// returns an error.
package faults
