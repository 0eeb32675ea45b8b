//go:build linux

// Package sandbox builds a small network of a node and pods, each in a
// network namespace of its own, with the node routing between them.
//
// It needs no external program and no privilege: Run runs the program again in
// a new network namespace and, if the user is not root, in a new user
// namespace. The package changes only namespaces that it created; NewNetwork
// returns an error for any other. No link leads out of these namespaces, and
// they disappear when the program ends, however it ends.
//
// The package does not load nftables rules, does not name namespaces under
// /run/netns, and changes nothing in the namespace in which the program was
// started.
package sandbox
