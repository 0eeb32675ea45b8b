//go:build linux

package record

import (
	"fmt"
	"strconv"
	"strings"
)

// benchmark is a metric of a benchmark in Go, and what its results measure.
type benchmark struct {
	name, metric string // such as Load and ns/op
	experiment   string
	what         string // a parameter; empty: the part of the name that is no number
	unit         string
	endpoints    int // of each Service, if the name of a result does not say it
}

// benchmarks are those of nfproxy in the kernel, without an API server.
var benchmarks = []benchmark{
	{"Load", "ns/op", "load", "first load", Seconds, 3},
	{"Restart", "ns/op", "load", "restart", Seconds, 3},
	{"ReplaceEndpoint", "ns/op", "commit", "an endpoint replaced", Seconds, 3},
	{"AddRemoveEndpoint", "ns/op", "commit", "an endpoint more or less", Seconds, 3},
	{"ChangeVerdict", "ns/op", "commit", "an endpoint more or less, across a power of two", Seconds, 3},
	{"NewBalancingChain", "ns/size", "commit", "the first Service of a size", Seconds, 3},
	{"FirstPacket", "ns/packet", "first packet", "", CPUSeconds, 0},
	{"FirstPacket", "ns/more50%", "first packet, beyond a direct one", "", CPUSeconds, 0},
	{"FirstPacket", "ns/cold", "first packet, cold caches", "", Seconds, 0},
	{"FirstPacket", "ns/cold-more", "first packet, cold caches, beyond a direct one", "", Seconds, 0},
	{"Draws", "ns/more50%", "draws of a first packet, beyond one draw", "", CPUSeconds, 0},
	{"Draws", "draws/packet", "draws of a first packet", "", Count, 0},
}

// AddBenchmarks adds results of benchmarks, as go test prints them: nanoseconds become seconds, and each run of -count is a sample. It
// returns an error if there is none that it knows.
func (r *Record) AddBenchmarks(output string) error {
	found := false
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name, rest, _ := strings.Cut(strings.TrimPrefix(fields[0], "Benchmark"), "/")
		if i := strings.LastIndex(rest, "-"); i >= 0 { // the number of processors
			rest = rest[:i]
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
			for _, b := range benchmarks {
				if b.name == name && b.metric == fields[i+1] {
					r.At(b.measurement(rest)).Add(b.scaled(value))
					found = true
				}
			}
		}
	}
	if !found {
		return fmt.Errorf("no known benchmark in %q", output)
	}
	return nil
}

// scaled returns a value of the metric in the unit.
func (b benchmark) scaled(value float64) float64 {
	if b.unit == Count {
		return value
	}
	return value / 1e9
}

// measurement returns the measurement of a result without its value. rest is the name of the result after the benchmark's own, such as
// external-ip/services=10000.
func (b benchmark) measurement(rest string) Measurement {
	m := Measurement{Experiment: b.experiment, Proxy: Nfproxy, Unit: b.unit, Endpoints: b.endpoints}
	var kind []string
	for part := range strings.SplitSeq(rest, "/") {
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
	what := b.what
	if what == "" {
		what = strings.Join(kind, "/")
	}
	m.Parameters = map[string]string{"what": what}
	if strings.HasPrefix(rest, "no-proxy") {
		m.Proxy = None
	}
	return m
}
