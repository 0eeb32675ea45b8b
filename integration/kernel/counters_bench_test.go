package kernel

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"nfproxy/render"
)

// BenchmarkCounters is BenchmarkLoad for each value of --connection-counters. It also reports the per-CPU memory that the
// kernel allocates for a Service of three endpoints, summed over all CPUs.
func BenchmarkCounters(b *testing.B) {
	const n = 100_000
	services := cluster(n)
	for name, by := range map[string]render.Counters{"none": render.CountNothing, "services": render.CountServices, "endpoints": render.CountEndpoints} {
		b.Run(fmt.Sprintf("%s/services=%d", name, n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				l := newTestNode(b)
				l.facts.Counters = by
				l.ruleset = render.NewRuleset(l.facts)
				before := perCPU(b)
				b.StartTimer()
				l.ruleset.Update(render.Update{Node: l.facts, Services: services})
				l.reconcile()
				b.StopTimer()
				b.ReportMetric(float64(perCPU(b)-before)/n, "percpu-bytes/Service")
				l.node.Close()
				b.StartTimer()
			}
		})
	}
}

// perCPU returns the kernel's per-CPU memory in bytes, summed over all CPUs (Percpu in proc_meminfo(5)).
func perCPU(b *testing.B) int {
	b.Helper()
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(info), "\nPercpu:")
	text, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kB, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return kB << 10
}
