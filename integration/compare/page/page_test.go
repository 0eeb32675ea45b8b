//go:build linux

package page

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfproxy/integration/compare/record"
)

// newRecords returns records of which nfproxy is ahead in some measurements and behind in others.
func newRecords() []record.Record {
	r := record.Record{Date: "2026-11-22 01:50 UTC", Command: "make bench-compare", Seconds: 120, Machine: record.Machine{CPU: "c", CPUs: 2, Memory: 1 << 34, Kernel: "6.18"}, Note: "a busy machine."}
	add := func(experiment string, proxy record.Proxy, services int, unit, what string, samples ...float64) *record.Measurement {
		m := record.Measurement{Experiment: experiment, Proxy: proxy, Services: services, Endpoints: 3, Unit: unit}
		if what != "" {
			m.Parameters = map[string]string{"what": what}
		}
		at := r.At(m)
		at.Add(samples...)
		return at
	}
	for _, services := range []int{1000, 10_000} {
		for _, l := range readmeLines {
			unit := record.Seconds
			if strings.Contains(l.experiment, "memory") {
				unit = record.Bytes
			}
			add(l.experiment, record.Nfproxy, services, unit, l.parameters, 0.5)
			add(l.experiment, record.KubeProxyNftables, services, unit, l.parameters, 5)
			add(l.experiment, record.KubeProxyIptables, services, unit, l.parameters, 5)
		}
	}
	add("start", record.Nfproxy, 100_000, record.Seconds, "", 4, 6, 5)
	add("restart", record.Nfproxy, 100_000, record.Seconds, "", 7)
	add("load", record.Nfproxy, 100_000, record.Seconds, "first load", 2)
	add("load", record.Nfproxy, 100_000, record.Seconds, "restart", 1.9)
	for proxy, rate := range map[record.Proxy]float64{record.None: 100, record.Nfproxy: 96} {
		r.At(record.Measurement{Experiment: "established packets", Proxy: proxy, Services: 10_000, Endpoints: 1, Unit: record.PerSecond,
			Parameters: map[string]string{"protocol": "UDP", "bytes": "64"}}).Add(rate)
	}
	add("start", record.Nfproxy, 30_000, record.Seconds, "", 2)
	add("start", record.KubeProxyNftables, 30_000, record.Seconds, "", 1.99)
	add("start", record.KubeProxyIptables, 30_000, record.Seconds, "").AddExceeded(180)
	add("change", record.Nfproxy, 30_000, record.Seconds, "removed", 0.1, 0.2, 0.3)
	add("change", record.KubeProxyNftables, 30_000, record.Seconds, "removed", 0.1)
	add("kernel-memory", record.Nfproxy, 30_000, record.Bytes, "vmalloc", 2e6)
	add("kernel-memory", record.KubeProxyNftables, 30_000, record.Bytes, "vmalloc", 1e6)
	add("something new", record.Nfproxy, 1, record.PerSecond, "", 900)
	add("something new", record.KubeProxyNftables, 1, record.PerSecond, "", 1000)
	r.Sort()
	return []record.Record{r}
}

// TestWorse: the page names each result of nfproxy that is not better, and no part of another result.
func TestWorse(t *testing.T) {
	want := []string{
		"Start to a connection at 30,000 x 3: nfproxy 2.0 s, kube-proxy nftables 2.0 s, which is about the same",
		"One endpoint (removed) at 30,000 x 3: nfproxy 200 ms, kube-proxy nftables 100 ms",
		"something new at 1 x 3: nfproxy 900 a second, kube-proxy nftables 1,000 a second",
	}
	if d := cmp.Diff(want, Page{newRecords()}.Worse()); d != "" {
		t.Error(d)
	}
}

// TestTargets: each target has its result, and is met or not.
func TestTargets(t *testing.T) {
	rows := Page{newRecords()}.Targets()
	for _, want := range []Target{
		{Title: "start to a connection through the last Service", Size: "10,000 x 3", Limit: "0.55 s", Result: "500 ms", Met: "yes",
			Better: "10 times (kube-proxy nftables), 10 times (kube-proxy iptables)"},
		{Title: "restart at 100,000 Services", Size: "100,000 x 3", Limit: "no longer than the start", Result: "7.0 s", Met: "**no**: " + whyRestartLists},
		{Title: "steady memory", Size: "10,000 x 3", Limit: "40 MB", Result: "not measured"},
		{Title: "first load, without an API server", Size: "100,000 x 3", Limit: "1.5 s", Result: "2.0 s", Met: "**no**: " + whyLoad},
		{Title: "restart, without an API server", Size: "100,000 x 3", Limit: "no longer than the first load", Result: "1.9 s", Met: "yes"},
		{Title: "packets of an established flow, beside a direct one", Size: "10,000 x 1", Limit: "no less than by 5 %", Result: "96 a second", Met: "yes"},
		{Title: "the most that one object can cost", Limit: "50 MB, and no other program waits", Result: "not part of these runs: `BenchmarkHostileObjects`"},
	} {
		if !slices.Contains(rows, want) {
			t.Errorf("there is no target %+v in %+v", want, rows)
		}
	}
}

// TestTable: a table has a column for each proxy and for the advantage over each peer.
func TestTable(t *testing.T) {
	all := newRecords()
	got := order(all)[0].table(rowsOf(all, "start"))
	want := `| Services x endpoints | nfproxy | kube-proxy nftables | kube-proxy iptables | better than kube-proxy nftables | better than kube-proxy iptables |
|---|---|---|---|---|---|
| 1,000 x 3 | 500 ms | 5.0 s | 5.0 s | 10 times | 10 times |
| 10,000 x 3 | 500 ms | 5.0 s | 5.0 s | 10 times | 10 times |
| 30,000 x 3 | 2.0 s | 2.0 s | more than 180 s | 1.0 times | more than 90 times |
| 100,000 x 3 | 5.0 s; 4.0 s to 6.0 s, of 3 | not measured | not measured |  |  |
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got = experiment{quantiles: true}.table(rowsOf(all, "change"))
	if want := "| 30,000 x 3 | removed | 200 ms; p99 300 ms, of 3 | 100 ms | not measured | **0.5 times** |  |\n"; !strings.Contains(got, want) {
		t.Errorf("the table of changes lacks the row\n%s\n%s", want, got)
	}
}

// TestFigures: a plot has the medians of each proxy, and bounds that were exceeded.
func TestFigures(t *testing.T) {
	want := Figure{Name: "start", Title: "Start to a connection", Axis: "seconds", Series: []Series{
		{record.Nfproxy, []Point{{1000, 0.5, false}, {10_000, 0.5, false}, {30_000, 2, false}, {100_000, 5, false}}},
		{record.KubeProxyNftables, []Point{{1000, 5, false}, {10_000, 5, false}, {30_000, 1.99, false}}},
		{record.KubeProxyIptables, []Point{{1000, 5, false}, {10_000, 5, false}, {30_000, 180, true}}},
	}}
	if d := cmp.Diff(want, Figures(newRecords())[0]); d != "" {
		t.Error(d)
	}
}

// TestWithReadme: the lines between the comments are replaced, twice with the same result, and a README without them is an error. Of the
// notes of runs, the README has those of the runs that its table shows.
func TestWithReadme(t *testing.T) {
	all := newRecords()
	other := record.Record{Note: "a quiet machine"}
	other.At(record.Measurement{Experiment: "start", Proxy: record.Nfproxy, Services: 1, Endpoints: 3, Unit: record.Seconds}).Add(1)
	all = append(all, other)
	once, err := WithReadme([]byte("before\n"+readmeBegin+"old\n"+readmeEnd+"after\n"), all)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := WithReadme(once, all)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(once), string(twice)); d != "" {
		t.Error(d)
	}
	for _, text := range []string{"before\n" + readmeBegin, "with 10,000 Services", "(Note: a busy machine.)", "| peak memory, with all programs that it executes | 0.5 B | 5.0 B | 5.0 B |\n", readmeEnd + "after\n"} {
		if !strings.Contains(string(once), text) {
			t.Errorf("the README lacks %q:\n%s", text, once)
		}
	}
	if strings.Contains(string(once), other.Note) {
		t.Errorf("the README has the note of another run:\n%s", once)
	}
	if strings.Contains(string(once), "old") {
		t.Error("the README has the old lines")
	}
	if _, err := WithReadme([]byte("a README"), all); err == nil {
		t.Error("a README without the comments is accepted")
	}
}

// TestQuantity: a value is written with the unit that fits it.
func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0, record.Bytes, "0"}, {0.0000171, record.Seconds, "17 µs"}, {0.00312, record.Seconds, "3.1 ms"}, {0.76, record.Seconds, "760 ms"},
		{1234.5, record.Seconds, "1,235 s"}, {64.3e6, record.Bytes, "64 MB"}, {999.6e6, record.Bytes, "1,000 MB"}, {12_345, record.PerSecond, "12,345 a second"},
		{2.5e9, record.BitsPerSec, "2.5 Gbit/s"}, {1.5, record.Count, "1.5"}, {3, "apples", "3.0 apples"}, {0.5e-9, record.Seconds, "0.5 ns"},
	} {
		if got := quantity(c.value, c.unit); got != c.want {
			t.Errorf("quantity(%v, %q) is %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}
