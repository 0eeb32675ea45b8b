//go:build linux

// Package sandbox builds a small network of a node and pods, each in a
// network namespace of its own, with the node routing between them.
//
// It needs no external program and no privilege: Run starts the program again
// in a new network namespace and, when it is not root, in a new user namespace
// too. Everything it sets up is in namespaces that it made itself; a node
// namespace that it did not make is refused. No link leads out of them, and
// they are gone when the program ends, however it ends.
//
// It does not load nftables rules, name namespaces under /run/netns or change
// anything in the namespace the program was started in.
package sandbox
