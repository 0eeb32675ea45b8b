// Package integration holds the tests that need a kernel: real nftables, real packets, and nft as an independent
// judge, all in network namespaces that the tests make themselves (package sandbox).
package kernel
