//go:build linux

package scrape

import (
	"math"
	"testing"
)

// TestQuantile: quantiles of the observations between two scrapes are interpolated within a bucket.
func TestQuantile(t *testing.T) {
	read := func(text ...string) Histogram {
		m := New()
		for _, line := range text {
			m.add([]byte(line))
		}
		return m.Histograms["x"]
	}
	before := read(`x_bucket{le="1"} 5`, `x_bucket{le="2"} 5`, `x_bucket{le="+Inf"} 5`, `x_sum 1`, `y_bucket{a="b",le="1"} 7`)
	after := read(`x_bucket{le="1"} 15`, `x_bucket{le="2"} 25`, `x_bucket{le="+Inf"} 26`)
	for _, c := range []struct {
		what string
		h    Histogram
		q    float64
		want float64
	}{
		{"first bucket", after.Since(before), 0.25, 0.525},
		{"second bucket", after.Since(before), 0.75, 1.575},
		{"last bucket", after.Since(before), 1, 2},
		{"after a restart", before.Since(after), 0.5, 0.5},
		{"without observations", after.Since(after), 0.5, math.NaN()},
	} {
		got := c.h.Quantile(c.q)
		if math.Abs(got-c.want) > 1e-9 || math.IsNaN(got) != math.IsNaN(c.want) {
			t.Errorf("%s: quantile %v is %v, want %v", c.what, c.q, got, c.want)
		}
	}
}
