// Package nft holds nftables tables as values that can be printed, traced for a packet and compared.
//
// A Table has Sets (maps are sets with data), Chains and Rules. Rules are made of a closed set of matches and actions;
// each kind has three readers: text.go prints it as nft would, trace.go evaluates it for one packet, and package
// kernel encodes it for netlink. Diff gives the changes from one state to another in an order that one transaction
// accepts.
//
// The package is pure: no I/O, no clock, nothing but the standard library. It does not know Kubernetes, and it does
// not know netlink: registers and offsets are package kernel's.
package nft
