//go:build linux

// Command soak runs nfproxy under load for hours and stores samples of its memory, descriptors, goroutines, CPU time and
// commit times, and of the connections that clients made. Everything runs in network namespaces of its own, without an
// uplink (package sandbox).
//
//	population.go  which Services there are, and at which addresses and endpoints
//	manifests.go   writes a Service and its EndpointSlices to the directory that nfproxy follows
//	changes.go     replaces, adds and removes endpoints, and creates and deletes Services, at a constant rate
//	backends.go    Pods that answer over TCP and UDP
//	clients.go     clients that connect all the time, and connections that stay open
//	flows.go       fills the connection tracking table over netlink
//	foreign.go     another program that commits to nf_tables and deletes elements of nfproxy
//	daemon.go      the nfproxy process: start, SIGTERM, restart for a changed configuration
//	sampler.go     one row of measurements per interval, into a CSV file
//	verdict.go     what must hold at the end
//
// Its output is a directory with samples.csv, run.json, failures.log and nfproxy.log. Package report, a module of its own,
// turns the first two into the page and the plots in docs/soak.
package main
