//go:build linux

package page

// Why targets are not met, by profiles, and what would be next.
const (
	whyMemory = "25 MB are pages of the program itself. The template engine that the library of the command line uses keeps 7 MB of " +
		"them from being left out: another library would be the next step"
	whyConnect = "most of the difference is what connection tracking does for any translated connection; see the first packet below"
	whyStart   = "client-go's informers alone, without nfproxy, take about two thirds of it (`BenchmarkCluster`). The next step is to render " +
		"Services while the list arrives"
	whyLoad = "half of it is the renderer and the comparison on one processor, a third the kernel. The next step is to render Services on " +
		"both processors"
	whyRestart = "the kernel's answers are decoded to elements that are compared one by one. The next step is to compare the encoded " +
		"answer with the encoded element"
)
