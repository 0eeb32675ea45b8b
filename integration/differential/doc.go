// Package differential compares nfproxy with the real kube-proxy on random clusters.
//
// Both proxies read one API server. Each of them programs a network namespace of its own, and the two namespaces have the same
// shape (node_test.go). A test case is a configuration for both proxies and a sequence of cluster states (case_test.go,
// generate_test.go). After each state the same packets are sent in both namespaces (probe_test.go), from the same places to the
// same targets (targets_test.go), and whatever differs must be on the list of deliberate differences (expected_test.go).
package differential
