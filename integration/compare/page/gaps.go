//go:build linux

package page

// Why targets are not met, by profiles, and what would be next.
const (
	whyMemory = "25 MB are pages of the program itself. The template engine that the library of the command line uses keeps 7 MB of " +
		"them from being left out: another library would be the next step"
	whyConnect = "the first packet takes about 2 µs more than without rules (below); the rest is the translation of the packets of the " +
		"handshake by connection tracking, which every proxy pays"
	whyEvent = "the median is a sixth of a millisecond at every size. The 99th percentile rests on a few changes, which share two processors " +
		"with the API server"
	whyPackets = "connection tracking rewrites the addresses of each packet, with any proxy"
	whyStart   = "client-go's informers alone, without nfproxy, take about two thirds of it (`BenchmarkCluster`). The next step is to render " +
		"Services while the list arrives"
	whyLoad = "user time dominates: the renderer, although it uses all processors, and the plan of the changes. The kernel takes 0.7 s of " +
		"processor time. The next step is to encode messages while the changes are planned"
	whyRestartLists = "the list from the API server is about half of both. The difference is that between a restart and a load without an API server (below)"
	whyRestart      = "the tables are read and decoded in about 1.4 s, while the rules are built, and compared in about 0.5 s. The next step is to " +
		"compare the kernel's bytes with encoded elements"
)
