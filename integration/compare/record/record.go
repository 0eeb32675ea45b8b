//go:build linux

// Package record is the common output of the comparisons of nfproxy with other proxies: measurements, and where, with what and how
// they were made. The page docs/benchmarks/README.md and its plots are generated from such records.
package record

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Record is one run of a program that measures. Its file is JSON with one measurement per line.
type Record struct {
	Date         string        `json:"date"`    // of the start, such as 2026-11-22 01:50 UTC
	Command      string        `json:"command"` // repeats the run
	Seconds      float64       `json:"seconds"` // that the run took
	Load         float64       `json:"load"`    // load average of the machine over a minute, before the start
	Machine      Machine       `json:"machine"`
	Versions     Versions      `json:"versions"`
	Note         string        `json:"note,omitempty"` // a sentence about the run
	Measurements []Measurement `json:"measurements"`
}

// Machine is where a run was made.
type Machine struct {
	CPU    string  `json:"cpu"` // model
	CPUs   int     `json:"cpus"`
	Memory float64 `json:"memory_bytes"`
	Kernel string  `json:"kernel"`
}

// Versions are those of the programs that were measured.
type Versions struct {
	Nfproxy    string `json:"nfproxy"` // commit
	KubeProxy  string `json:"kube_proxy"`
	Kubernetes string `json:"kubernetes"` // of the API server
	Nft        string `json:"nft"`
	Iptables   string `json:"iptables"`
	Go         string `json:"go"`
}

// Proxy names what is measured.
type Proxy string

// The proxies, in the order of the page.
const (
	None              Proxy = "none" // direct connections to the pods
	Nfproxy           Proxy = "nfproxy"
	KubeProxyNftables Proxy = "kube-proxy nftables"
	KubeProxyIptables Proxy = "kube-proxy iptables"
)

// Proxies returns all proxies, in the order of the page.
func Proxies() []Proxy { return []Proxy{None, Nfproxy, KubeProxyNftables, KubeProxyIptables} }

// Units. Values are those of the unit; the page chooses prefixes.
const (
	Seconds    = "s"
	CPUSeconds = "CPU s"
	Bytes      = "B"
	PerSecond  = "1/s"
	BitsPerSec = "bit/s"
	Count      = "" // a plain number
)

// Measurement is one result: of an experiment, with a proxy, at a size.
type Measurement struct {
	Experiment string            `json:"experiment"`
	Proxy      Proxy             `json:"proxy"`
	Services   int               `json:"services"`
	Endpoints  int               `json:"endpoints"` // of each Service
	Parameters map[string]string `json:"parameters,omitempty"`
	Unit       string            `json:"unit"`
	Samples    []float64         `json:"samples,omitempty"` // in the order in which they were taken; left out if there are many
	Summary
	// Bound is the limit of one sample, in the unit, if Exceeded samples would have been larger and were abandoned. They are not
	// among the samples, and not in the summary.
	Bound    float64 `json:"bound,omitempty"`
	Exceeded int     `json:"exceeded,omitempty"`
	Note     string  `json:"note,omitempty"` // how this measurement differs from others of the experiment
}

// Summary describes samples. A quantile is the smallest sample that is not exceeded by a larger share of them (nearest rank).
type Summary struct {
	Count int     `json:"count"`
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// Summarize returns the summary of samples, which is zero without samples.
func Summarize(samples []float64) Summary {
	sorted := slices.Sorted(slices.Values(samples))
	if len(sorted) == 0 {
		return Summary{}
	}
	rank := func(share float64) float64 { return sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)] }
	return Summary{len(sorted), sorted[0], rank(0.5), rank(0.99), sorted[len(sorted)-1]}
}

// MostSamples is how many samples a measurement keeps: those of quantiles of a hundred, and of fewer rounds.
const MostSamples = 100

// Add adds samples, rounds them to five digits, and summarizes all samples so far. It keeps no samples if there are more than
// MostSamples, and must not be called again after that.
func (m *Measurement) Add(samples ...float64) {
	for _, s := range samples {
		m.Samples = append(m.Samples, rounded(s))
	}
	m.Summary = Summarize(m.Samples)
	if len(m.Samples) > MostSamples {
		m.Samples = nil
	}
}

// AddExceeded notes that a sample would have been larger than a bound.
func (m *Measurement) AddExceeded(bound float64) {
	m.Bound = max(m.Bound, bound)
	m.Exceeded++
}

// OverBound reports whether the median is above the bound, so that all that is known is "more than".
func (m *Measurement) OverBound() bool { return m.Exceeded > m.Count }

// rounded returns a number with five significant digits.
func rounded(value float64) float64 {
	if value == 0 || math.IsNaN(value) || math.IsInf(value, 0) {
		return value
	}
	unit := math.Pow10(int(math.Floor(math.Log10(math.Abs(value)))) - 4)
	if unit < 1 { // the inverse is exact, and so the result is the closest number that can be printed shortly
		inverse := math.Round(1 / unit)
		return math.Round(value*inverse) / inverse
	}
	return math.Round(value/unit) * unit
}

// Key identifies what was measured: all but the result.
func (m *Measurement) Key() string {
	key := fmt.Sprintf("%s|%s|%d|%d", m.Experiment, m.Proxy, m.Services, m.Endpoints)
	for _, name := range slices.Sorted(maps.Keys(m.Parameters)) {
		key += "|" + name + "=" + m.Parameters[name]
	}
	return key
}

// At returns the measurement with the key of another, which it adds if there is none. The pointer is valid until the next call.
func (r *Record) At(like Measurement) *Measurement {
	for i := range r.Measurements {
		if r.Measurements[i].Key() == like.Key() {
			return &r.Measurements[i]
		}
	}
	r.Measurements = append(r.Measurements, like)
	return &r.Measurements[len(r.Measurements)-1]
}

// Sort puts the measurements into the order of the page: by experiment, parameters, size and proxy.
func (r *Record) Sort() {
	order := Proxies()
	parameters := func(m Measurement) string {
		var all []string
		for _, name := range slices.Sorted(maps.Keys(m.Parameters)) {
			all = append(all, name+"="+m.Parameters[name])
		}
		return strings.Join(all, "|")
	}
	slices.SortStableFunc(r.Measurements, func(a, b Measurement) int {
		return cmp.Or(cmp.Compare(a.Experiment, b.Experiment), cmp.Compare(parameters(a), parameters(b)), cmp.Compare(a.Services, b.Services),
			cmp.Compare(a.Endpoints, b.Endpoints), cmp.Compare(slices.Index(order, a.Proxy), slices.Index(order, b.Proxy)))
	})
}
