package datapath

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"nfproxy/integration/compare/record"
)

// addBenchmarks adds results of BenchmarkFirstPacket and BenchmarkDraws, as go test prints them, to a record: nanoseconds become
// seconds, and each run of -count is a sample.
func addBenchmarks(r *record.Record, text string) error {
	found := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name, what, _ := strings.Cut(strings.TrimPrefix(fields[0], "Benchmark"), "/")
		if i := strings.LastIndex(what, "-"); i >= 0 { // the number of processors
			what = what[:i]
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
			like, ok := benchmarkMeasurement(name, what, fields[i+1])
			if !ok {
				continue
			}
			if like.Unit == record.Seconds {
				value /= 1e9
			}
			r.At(like).Add(value)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("no results of BenchmarkFirstPacket or BenchmarkDraws in %q", text)
	}
	return nil
}

// benchmarkMeasurement returns the measurement for a metric of a benchmark, such as "ns/packet" of "FirstPacket" for
// "external-ip/services=10000". Quartiles stay in the benchmark's output.
func benchmarkMeasurement(name, what, metric string) (record.Measurement, bool) {
	m := record.Measurement{Proxy: record.Nfproxy, Unit: record.Seconds, Parameters: map[string]string{"metric": "packet"}}
	switch name {
	case "FirstPacket":
		m.Experiment = "first packet"
	case "Draws":
		m.Experiment = "first packet with draws"
	default:
		return m, false
	}
	switch metric {
	case "ns/packet":
	case "ns/more50%":
		m.Parameters["metric"] = "more"
	case "draws/packet":
		m.Parameters["metric"], m.Unit = "draws", record.Count
	default:
		return m, false
	}
	var kind []string
	for part := range strings.SplitSeq(what, "/") {
		key, value, _ := strings.Cut(part, "=")
		number, err := strconv.Atoi(value)
		switch {
		case key == "services" && err == nil:
			m.Services = number
		case key == "endpoints" && err == nil:
			m.Endpoints = number
		default:
			kind = append(kind, part)
		}
	}
	m.Parameters["kind"] = strings.Join(kind, "/")
	if strings.HasPrefix(what, "no-proxy") {
		m.Proxy = record.None
	}
	return m, true
}

// TestAddBenchmarks: each metric of each benchmark is a measurement, and repeated runs are its samples.
func TestAddBenchmarks(t *testing.T) {
	const text = `goos: linux
BenchmarkFirstPacket/no-proxy/nat-hooks-2         	     150	      1049 ns/direct	       365.0 ns/more25%	       421.0 ns/more50%	      1487 ns/packet
BenchmarkFirstPacket/cluster-ip/services=10000-2  	     150	      1026 ns/direct	      1752 ns/more50%	      2794 ns/packet
BenchmarkFirstPacket/cluster-ip/services=10000-2  	     150	      1026 ns/direct	      1752 ns/more50%	      2800 ns/packet
BenchmarkDraws/services=1/endpoints=3/class=4-2   	     200	         1.327 draws/packet	      1648 ns/exact	        32.00 ns/more50%	      1677 ns/packet
BenchmarkLoad/services=1000-2   	     200	  1677 ns/op
`
	var r record.Record
	check(t, addBenchmarks(&r, text))
	var got []string
	for _, m := range r.Measurements {
		got = append(got, fmt.Sprintf("%s: %d, %v %s", m.Key(), m.Count, m.Max, m.Unit))
	}
	want := []string{
		"first packet|none|0|0|kind=no-proxy/nat-hooks|metric=more: 1, 4.21e-07 s",
		"first packet|none|0|0|kind=no-proxy/nat-hooks|metric=packet: 1, 1.487e-06 s",
		"first packet|nfproxy|10000|0|kind=cluster-ip|metric=more: 2, 1.752e-06 s",
		"first packet|nfproxy|10000|0|kind=cluster-ip|metric=packet: 2, 2.8e-06 s",
		"first packet with draws|nfproxy|1|3|kind=class=4|metric=draws: 1, 1.327 ",
		"first packet with draws|nfproxy|1|3|kind=class=4|metric=more: 1, 3.2e-08 s",
		"first packet with draws|nfproxy|1|3|kind=class=4|metric=packet: 1, 1.677e-06 s",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := addBenchmarks(&r, "PASS\n"); err == nil {
		t.Error("a file without results is accepted")
	}
}
