//go:build linux

package main

import (
	"math"
	"slices"
	"testing"
)

// TestVerdict: each kind of failure and growth has a sentence, and a good run has none.
func TestVerdict(t *testing.T) {
	good := func() sample {
		return sample{"descriptors": 20, "goroutines": 22, "threads": 10, "connects_calm": 1, "connects_changing": 1,
			"open_connection_answers": 1, "changes": 1, "commits": 1, "foreign_commits": 1}
	}
	for _, c := range []struct {
		what  string
		alter func(i int, row sample)
		want  []string
	}{
		{"a good run", func(int, sample) {}, nil},
		{"some goroutines more", func(i int, row sample) { row["goroutines"] += float64(i / 4) }, nil},
		{"a leak of goroutines", func(i int, row sample) { row["goroutines"] += float64(i) },
			[]string{"goroutines grew from 49 to 60, by the median of the third and the last quarter"}},
		{"descriptors that could not be read", func(_ int, row sample) { row["descriptors"] = math.NaN() },
			[]string{"descriptors grew from NaN to NaN, by the median of the third and the last quarter"}},
		{"a failed connect", func(i int, row sample) { row["failed_calm"] = 1 }, []string{"failed_calm is 1"}},
		{"a process that had to be killed", func(i int, row sample) { row["kills"] = 2 }, []string{"kills is 2"}},
		{"no client", func(i int, row sample) { row["connects_calm"] = 0 }, []string{"connects_calm is 0: the run tested nothing"}},
	} {
		s := &sampler{}
		for i := range 44 {
			row := good()
			c.alter(i, row)
			s.all = append(s.all, row)
		}
		if got := s.verdict(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}
