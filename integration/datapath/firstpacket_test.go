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
			if like.Unit != record.Count {
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
	m := record.Measurement{Proxy: record.Nfproxy, Unit: record.CPUSeconds}
	switch name + " " + metric {
	case "FirstPacket ns/packet":
		m.Experiment = "first packet"
	case "FirstPacket ns/more50%":
		m.Experiment = "first packet, beyond a direct one"
	case "FirstPacket ns/cold":
		m.Experiment, m.Unit = "first packet, cold caches", record.Seconds
	case "FirstPacket ns/cold-more":
		m.Experiment, m.Unit = "first packet, cold caches, beyond a direct one", record.Seconds
	case "Draws ns/more50%":
		m.Experiment = "draws of a first packet, beyond one draw"
	case "Draws draws/packet":
		m.Experiment, m.Unit = "draws of a first packet", record.Count
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
	m.Parameters = map[string]string{"what": strings.Join(kind, "/")}
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
BenchmarkFirstPacket/cluster-ip/services=10000-2  	     150	      1026 ns/direct	      1752 ns/more50%	      2800 ns/packet	      9000 ns/cold	      5000 ns/cold-more
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
		"first packet, beyond a direct one|none|0|0|what=no-proxy/nat-hooks: 1, 4.21e-07 CPU s",
		"first packet|none|0|0|what=no-proxy/nat-hooks: 1, 1.487e-06 CPU s",
		"first packet, beyond a direct one|nfproxy|10000|0|what=cluster-ip: 2, 1.752e-06 CPU s",
		"first packet|nfproxy|10000|0|what=cluster-ip: 2, 2.8e-06 CPU s",
		"first packet, cold caches|nfproxy|10000|0|what=cluster-ip: 1, 9e-06 s",
		"first packet, cold caches, beyond a direct one|nfproxy|10000|0|what=cluster-ip: 1, 5e-06 s",
		"draws of a first packet|nfproxy|1|3|what=class=4: 1, 1.327 ",
		"draws of a first packet, beyond one draw|nfproxy|1|3|what=class=4: 1, 3.2e-08 CPU s",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := addBenchmarks(&r, "PASS\n"); err == nil {
		t.Error("a file without results is accepted")
	}
}
