// Package preflight looks at a node before anything of it is changed: whether its kernel can do what the rules need, what
// is set in a way that Services suffer from, and what other service proxies left.
//
// What it finds are lines (line.go): each says how good or bad it is, what was found, and what to do. What has to be tried
// out is tried in a network namespace of its own (scratch.go), with probes that are data (probe.go, expressions.go): the
// node's own namespace is only read. docs/check.md has every line.
package preflight
