//go:build linux

package main

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
)

// histogram holds the cumulative buckets of a Prometheus histogram, in ascending order.
type histogram []bucket

type bucket struct{ le, count float64 }

// metrics are the values of one scrape that the soak uses: those without labels by name, and the histograms without labels.
type metrics struct {
	values     map[string]float64
	histograms map[string]histogram
}

func newMetrics() *metrics {
	return &metrics{values: make(map[string]float64), histograms: make(map[string]histogram)}
}

// add reads one line of the text format. It ignores comments and metrics with other labels than le.
func (m *metrics) add(line []byte) {
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
		m.values[name] = value
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
	m.histograms[base] = append(m.histograms[base], bucket{le, value})
}

// since returns the observations that h has and before lacks. If before has more, the process was restarted meanwhile, and
// since returns h.
func (h histogram) since(before histogram) histogram {
	if len(before) != len(h) || before.total() > h.total() {
		return h
	}
	difference := slices.Clone(h)
	for i := range difference {
		difference[i].count -= before[i].count
	}
	return difference
}

func (h histogram) total() float64 {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].count
}

// quantile returns a quantile, interpolated within its bucket as Prometheus does, or NaN without observations. A value in
// the last bucket is at least the bound before it, which is returned.
func (h histogram) quantile(q float64) float64 {
	if h.total() == 0 {
		return math.NaN()
	}
	rank := q * h.total()
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
