// Package nft holds nftables tables as values that can be printed, compared and simulated for one packet.
//
// A Table has Sets (a map is a set with data), Chains and Rules. A rule consists of matches and one action, of a closed
// set of kinds. Each kind is handled in three places: text.go prints it in nft's syntax, simulate.go evaluates it for
// one packet, and package kernel encodes it for netlink. Diff returns the changes that turn one state into another, in
// an order that one transaction accepts.
//
// The package is pure: it does no I/O, reads no clock and imports only the standard library. It knows neither
// Kubernetes nor netlink; registers and offsets belong to package kernel.
package nft
