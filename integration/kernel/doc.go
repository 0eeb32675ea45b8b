// Package kernel tests nfproxy on a real kernel: its nftables, its conntrack table and real packets, with nft as an
// independent judge. The tests create the network namespaces that they use (package sandbox).
package kernel
