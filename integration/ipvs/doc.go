// Package ipvs tests nfproxy after the real kube-proxy in mode ipvs, and the commands of docs/coming-from-ipvs.md that remove what it
// leaves behind. It holds tests only.
//
// They need a kernel with IPVS. The virtual machines of integration/kernels have one; there a skip counts as a failure.
package ipvs
