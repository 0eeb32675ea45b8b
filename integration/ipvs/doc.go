// Package ipvs tests nfproxy after the real kube-proxy in mode ipvs, and the commands of docs/coming-from-ipvs.md that remove what it
// leaves behind. It holds tests only.
//
// They load the module ip_vs, which not every kernel has. So they run only in the virtual machines of
// integration/kernels, which they recognise by a parameter of the kernel. Elsewhere they are skipped. In these machines a skip counts
// as a failure.
package ipvs
