// Package datapath compares what connections experience through nfproxy, through kube-proxy in both of its modes, and without a
// proxy, at many sizes of a cluster.
//
// All proxies read one API server. Each has a node of its own, a network namespace between the same clients and the same server
// (node_test.go), and does not run while connections are measured: its rules do. Rounds of connections go through all nodes in turn.
// Clients have one processor and servers another. The cases vary one property at a time around a base case (cases_test.go).
//
// The load generator is part of the package, because none in Debian times connect() for TCP and UDP. TestGenerator runs it beside
// ab, and iperf3 measures established connections (throughput_test.go).
package datapath
