// Package conntrack has entries of the kernel's connection tracking as values, and filters for them. It does no I/O;
// package conntrack/ctnetlink lists and deletes the entries of a network namespace.
package conntrack
