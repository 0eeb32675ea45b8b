//go:build linux

// Package scrape reads the metrics of a proxy, as Prometheus does.
package scrape

import (
	"bytes"
	"cmp"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Histogram holds the cumulative buckets of a Prometheus histogram, in ascending order.
type Histogram []bucket

type bucket struct{ le, count float64 }

// Metrics are values of one scrape: those without labels by name, and the histograms without labels.
type Metrics struct {
	Values     map[string]float64
	Histograms map[string]Histogram
}

// New returns metrics without values.
func New() *Metrics {
	return &Metrics{Values: make(map[string]float64), Histograms: make(map[string]Histogram)}
}

// Read reads the metrics that are served at an address.
func (m *Metrics) Read(client *http.Client, addr string) error {
	response, err := client.Get("http://" + addr + "/metrics")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		m.add(bytes.TrimSpace(line))
	}
	return nil
}

// add reads one line of the text format. It ignores comments and metrics with other labels than le.
func (m *Metrics) add(line []byte) {
	if len(line) == 0 || line[0] == '#' {
		return
	}
	at := bytes.LastIndexByte(line, ' ')
	if at < 0 {
		return
	}
	series := string(line[:at])
	value, err := strconv.ParseFloat(string(line[at+1:]), 64)
	if err != nil {
		return
	}
	name, labels, labelled := strings.Cut(series, "{")
	if !labelled {
		m.Values[name] = value
		return
	}
	base, isBucket := strings.CutSuffix(name, "_bucket")
	bound, ok := strings.CutPrefix(labels, `le="`)
	if !isBucket || !ok {
		return
	}
	le, err := strconv.ParseFloat(strings.TrimSuffix(bound, `"}`), 64)
	if err != nil {
		return
	}
	m.Histograms[base] = append(m.Histograms[base], bucket{le, value})
}

// Since returns the observations that h has and before lacks. If before has more, the process was restarted meanwhile, and
// Since returns h.
func (h Histogram) Since(before Histogram) Histogram {
	if len(before) != len(h) || before.Total() > h.Total() {
		return h
	}
	difference := slices.Clone(h)
	for i := range difference {
		difference[i].count -= before[i].count
	}
	return difference
}

// Total returns the number of observations.
func (h Histogram) Total() float64 {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].count
}

// Quantile returns a quantile, interpolated within its bucket as Prometheus does, or NaN without observations. A value in
// the last bucket is at least the bound before it, which is returned.
func (h Histogram) Quantile(q float64) float64 {
	if h.Total() == 0 {
		return math.NaN()
	}
	rank := q * h.Total()
	i, _ := slices.BinarySearchFunc(h, rank, func(b bucket, rank float64) int { return cmp.Compare(b.count, rank) })
	from, below := 0.0, 0.0
	if i > 0 {
		from, below = h[i-1].le, h[i-1].count
	}
	if math.IsInf(h[i].le, 1) {
		return from
	}
	return from + (h[i].le-from)*(rank-below)/(h[i].count-below)
}
