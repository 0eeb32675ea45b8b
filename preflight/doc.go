// Package preflight checks whether a node can run nfproxy: whether the kernel has the features that the rules need, whether
// sysctls, missing modules or other programs break Services, and which other service proxies are present. `nfproxy check` prints
// every result. `nfproxy cleanup --kube-proxy` uses it to find what kube-proxy left, and the daemon runs the essential
// checks when it starts.
//
// A check returns Lines (line.go): a level, a finding and advice. Kernel features are probed in a temporary network
// namespace (scratch.go) by loading small tables (probe.go, expressions.go, families.go, ruleset.go). The node's own
// network namespace is only read. docs/check.md lists every line.
package preflight
