//go:build linux

package page

import (
	"maps"
	"slices"

	"nfproxy/integration/compare/record"
)

// experiment describes the measurements of one name to readers.
type experiment struct {
	name  string // of the measurements
	title string
	text  string // how it is measured
	// neutral measurements describe the run, and not how good a proxy is.
	neutral bool
	// quantiles shows the 99th percentile beside the median.
	quantiles bool
	// plotted is the parameters, as in rows, of the measurements that are drawn, if drawn is set, and endpoints their endpoints.
	drawn     bool
	plotted   string
	endpoints int
	// parts says that the measurements with other parameters are parts of the ones that are drawn, and not compared by themselves.
	parts bool
}

// experiments are the sections of the page, in their order. Measurements of other names follow in the order of their names.
var experiments = []experiment{
	{name: "start", title: "Start to a connection", drawn: true, endpoints: 3,
		text: "From the start of the process, on a node without rules, to a connection through the Service that the API server lists last."},
	{name: "list", title: "A plain list of the same objects", neutral: true,
		text: "client-go lists Services and EndpointSlices as protobuf over the link of the proxies, and keeps nothing. No proxy can start faster."},
	{name: "restart", title: "Restart to a change", drawn: true, endpoints: 3,
		text: "The process ends and its rules stay; an endpoint is replaced; the process starts. From its start to a connection to the new endpoint."},
	{name: "change", title: "One endpoint", quantiles: true, drawn: true, plotted: "replaced", endpoints: 3,
		text: "From the request to the API server, which is included, to a connection that shows the effect. An endpoint is removed when 30 connections in a row avoid it. kube-proxy waits for a second between two updates of its rules; it gets that second before each change. In the Service with thousands of endpoints one is replaced right before the endpoint of another Service, whose connections show that both are programmed."},
	{name: "event-to-commit", title: "From a watch event to the commit",
		text: "nfproxy's own metric `nfproxy_event_to_commit_seconds` of the replacements above, interpolated within its buckets."},
	{name: "change-cpu", title: "CPU time of changes",
		text: "Of the process and of the programs that it executes, until all are idle: for each replaced endpoint, and for 100 Services created at once."},
	{name: "create", title: "100 Services at once", drawn: true, endpoints: 3,
		text: "From the first request, 16 at a time, until each of the Services answers a connection."},
	{name: "create-requests", title: "The requests for 100 Services", neutral: true,
		text: "The part of the time above that passes until the API server has answered all requests."},
	{name: "rolling", title: "Lag behind a rolling update", quantiles: true,
		text: "All endpoints of the Service are replaced, ten of a slice at a time, at 100 slices a second. Meanwhile the endpoint of another Service is replaced again and again, and once more after the end: from each of these requests to a connection."},
	{name: "rolling-cpu", title: "CPU time of a rolling update",
		text: "Of the process and of the programs that it executes, from the first change until all are idle."},
	{name: "rolling-pace", title: "The pace of the rolling update", neutral: true,
		text: "Slices a second that the API server took, on the same processors as the proxy."},
	{name: "start-cpu", title: "CPU time of a start", drawn: true, endpoints: 3,
		text: "Of the process and of the programs that it executes, until all are idle."},
	{name: "memory", title: "Memory", drawn: true, plotted: "peak", endpoints: 3,
		text: "Resident memory of the process and of the programs that it executes, together: the most, read every 20 ms, and what stays when all are idle."},
	{name: "kernel-memory", title: "Memory of the kernel", drawn: true, plotted: "total", endpoints: 3, parts: true,
		text: "What the memory of the kernel grew by from before the start until the proxy was idle: objects of kmalloc (`/proc/slabinfo`), per-CPU and vmalloc memory (`/proc/meminfo`: Percpu, VmallocUsed). What else happened in the kernel meanwhile is part of it."},
	{name: "start-received", title: "Bytes from the API server", drawn: true, endpoints: 3,
		text: "What the node received over the link to the API server until the proxy was idle, with all headers."},
	{name: "others-wait", title: "How long other users of nftables wait", drawn: true, endpoints: 3,
		text: "Another program sends an empty transaction each millisecond while the proxy starts: the longest that one took. All transactions of a network namespace need one mutex, which the proxy's largest batch holds."},
	{name: "load", title: "A load and a restart, without an API server",
		text: "From Services in memory to the last commit in an empty kernel; and a restart over the same tables, which reads and compares everything and changes nothing (`BenchmarkLoad`, `BenchmarkRestart`)."},
	{name: "commit", title: "A change, without an API server",
		text: "From a changed Service in memory to the commit, beside Services with three endpoints each. One endpoint more or less changes one element, unless the number crosses a power of two: then the verdict changes too, and the kernel checks all verdicts. The first Service of a size adds the chains of the size (`BenchmarkReplaceEndpoint`, `BenchmarkAddRemoveEndpoint`, `BenchmarkChangeVerdict`, `BenchmarkNewBalancingChain`)."},
	{name: "short connections", title: "Short connections", drawn: true, plotted: baseCase, endpoints: 10,
		text: "Connections per second, one after the other, each with one request and one answer. Client and proxy have one processor, the servers the other; the proxies take turns in each round. Direct connections to the endpoints, with connection tracking, stand in the column without a proxy."},
	{name: "connection CPU", title: "Processor time of a short connection",
		text: "Of the client, with what the kernel does for it. It depends less on other programs of the machine than the time that passes."},
	{name: "connect p50", title: "Time to connect, median",
		text: "From connect() to the connection. With UDP, from the first packet to the first answer."},
	{name: "connect p99", title: "Time to connect, 99th percentile"},
	{name: "established throughput", title: "Throughput of an established connection",
		text: "iperf3, one TCP connection."},
	{name: "established packets", title: "Packets of an established flow",
		text: "iperf3, UDP datagrams of 64 bytes."},
	{name: "first packet", title: "The first packet of a connection",
		text: "Processor time in the kernel of the whole path of a packet from a Pod to the endpoint, by the kind of frontend, with 10,000 Services or without a proxy: no rules, chains of type nat without rules, and nfproxy's tables for a packet to no Service, which every new connection of the node pays (`BenchmarkFirstPacket`)."},
	{name: "first packet, beyond a direct one", title: "The first packet, beyond a direct one",
		text: "What it takes more than the same packet to the endpoint without any rule."},
	{name: "first packet, cold caches", title: "The first packet, with cold caches",
		text: "The time of a packet that follows others with a pause in which the processor's caches were filled with other data."},
	{name: "first packet, cold caches, beyond a direct one", title: "The first packet with cold caches, beyond a direct one"},
	{name: "draws of a first packet", title: "Draws of a first packet",
		text: "How many slots a packet draws, on average, by the number of endpoints and the size of the chain (`BenchmarkDraws`)."},
	{name: "draws of a first packet, beyond one draw", title: "What the draws cost",
		text: "Processor time beyond a chain that draws once, below the number of endpoints. It can be negative: that is the accuracy of the measurement."},
}

// baseCase is the parameters of the case from which the other cases of the data path differ in one property.
const baseCase = "affinity none, from pod, protocol TCP"

// order returns the experiments that the records have, in the order of the page.
func order(all []record.Record) []experiment {
	names := make(map[string]bool)
	for _, r := range all {
		for _, m := range r.Measurements {
			names[m.Experiment] = true
		}
	}
	var found []experiment
	for _, e := range experiments {
		if names[e.name] {
			found = append(found, e)
			delete(names, e.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		found = append(found, experiment{name: name, title: name, quantiles: true})
	}
	return found
}

// target is what nfproxy should reach.
type target struct {
	title      string
	experiment string
	parameters string // as in rows
	services   int
	endpoints  int
	text       string  // of the limit
	limit      float64 // of the median, in the unit; 0 if limitOf is set
	// limitOf is another experiment of nfproxy at the same size, whose median is the limit.
	limitOf, limitParameters string
	// times is how many times as much as without a proxy may be measured, in the same row.
	times     float64
	elsewhere string // the command that measures it, if it is not part of the records
	why       string // the target is not met, if it is not, and what would be next
}

// targets are the rows of the first table.
var targets = []target{
	{title: "start to a connection through the last Service", experiment: "start", services: 10_000, endpoints: 3, text: "0.55 s", limit: 0.55, why: whyStart},
	{title: "restart over rules, to a change made meanwhile", experiment: "restart", services: 10_000, endpoints: 3, text: "0.5 s", limit: 0.5, why: whyStart},
	{title: "restart at 100,000 Services", experiment: "restart", services: 100_000, endpoints: 3, text: "no longer than the start", limitOf: "start", why: whyRestartLists},
	{title: "one endpoint replaced, to a connection", experiment: "change", parameters: "replaced", services: 10_000, endpoints: 3, text: "18 ms", limit: 0.018},
	{title: "from a watch event to the commit, 99th percentile", experiment: "event-to-commit", parameters: "99th percentile", services: 10_000,
		endpoints: 3, text: "1 ms", limit: 0.001, why: whyEvent},
	{title: "peak memory", experiment: "memory", parameters: "peak", services: 10_000, endpoints: 3, text: "60 MB", limit: 60e6, why: whyMemory},
	{title: "steady memory", experiment: "memory", parameters: "steady", services: 10_000, endpoints: 3, text: "40 MB", limit: 40e6, why: whyMemory},
	{title: "time to connect through a Service, beside a direct connection", experiment: "connect p50", parameters: baseCase,
		services: 10_000, endpoints: 10, text: "1.05 times", times: 1.05, why: whyConnect},
	{title: "throughput of an established connection, beside a direct one", experiment: "established throughput", parameters: "protocol TCP",
		services: 10_000, endpoints: 1, text: "no less than by 5 %", times: 1.05},
	{title: "packets of an established flow, beside a direct one", experiment: "established packets", parameters: "bytes 64, protocol UDP",
		services: 10_000, endpoints: 1, text: "no less than by 5 %", times: 1.05, why: whyPackets},
	{title: "commit: an endpoint replaced", experiment: "commit", parameters: "an endpoint replaced", services: 1000, endpoints: 3, text: "17 µs", limit: 17e-6},
	{title: "commit: an endpoint replaced", experiment: "commit", parameters: "an endpoint replaced", services: 100_000, endpoints: 3, text: "17 µs", limit: 17e-6},
	{title: "commit: one endpoint more or less", experiment: "commit", parameters: "an endpoint more or less", services: 1000, endpoints: 3, text: "20 µs", limit: 20e-6},
	{title: "commit: one endpoint more or less", experiment: "commit", parameters: "an endpoint more or less", services: 100_000, endpoints: 3, text: "20 µs", limit: 20e-6},
	{title: "first load, without an API server", experiment: "load", parameters: "first load", services: 100_000, endpoints: 3, text: "1.5 s", limit: 1.5, why: whyLoad},
	{title: "restart, without an API server", experiment: "load", parameters: "restart", services: 100_000, endpoints: 3, text: "no longer than the first load",
		limitOf: "load", limitParameters: "first load", why: whyRestart},
	{title: "failed connects during changes, restarts and kills", text: "0", elsewhere: "`TestChurn`, and [the soak](../soak/README.md)"},
	{title: "the most that one object can cost", text: "50 MB, and no other program waits", elsewhere: "`BenchmarkHostileObjects`"},
}
