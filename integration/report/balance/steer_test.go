package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestShares: a weight is the inverse of the count relative to the mean, within the range; an endpoint without a count has 1.
func TestShares(t *testing.T) {
	for _, c := range []struct{ counts, want []float64 }{
		{[]float64{9, 9, 9}, []float64{1, 1, 1}},
		{[]float64{0, 0}, []float64{1, 1}},
		{[]float64{14, 4}, []float64{10. / 15, 2}},
		{[]float64{199, 0}, []float64{0.5025, 4}}, // 100.5 without the range
		{[]float64{math.NaN(), 7, 7}, []float64{1, 1, 1}},
		{[]float64{math.NaN()}, []float64{1}},
	} {
		got := shares(c.counts, 4)
		if !slices.EqualFunc(got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-3 }) {
			t.Errorf("shares of %v are %v, want %v", c.counts, got, c.want)
		}
	}
	if got := toLeast([]float64{3, 1, 2}); !slices.Equal(got, []float64{0, 1, 0}) {
		t.Errorf("the least of 3, 1 and 2 has the weights %v", got)
	}
}

// TestSlots: for random weights every endpoint has a slot, the parts are exact to two slots where none is raised to one, and a second
// assignment by the same weights changes nothing.
func TestSlots(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		n := 1 + r.IntN(20)
		slots, serving, place := slices.Repeat([]int32{-1}, 64), make([]int32, n), make([]int, n)
		weights, have, sum := make([]float64, n), make([]int, n), 0.0
		for i := range n {
			serving[i], place[i] = int32(i), i
			weights[i] = math.Exp(r.NormFloat64())
			sum += weights[i]
		}
		want := apportion(weights, have, len(slots), r.IntN(100))
		if changed := reassign(slots, serving, place, want); changed != len(slots) {
			t.Fatalf("%d slots are changed in an empty list of %d", changed, len(slots))
		}
		raised := false
		for _, e := range slots {
			have[e]++
		}
		for _, w := range weights {
			raised = raised || w/sum*64 < 1
		}
		for i := range have {
			if have[i] != want[i] || have[i] < 1 || !raised && math.Abs(float64(have[i])-64*weights[i]/sum) > 2 {
				t.Fatalf("endpoint %d of weight %.2f of %.2f has %d slots, want %d", i, weights[i], sum, have[i], want[i])
			}
		}
		if changed := reassign(slots, serving, place, apportion(weights, have, len(slots), r.IntN(100))); changed > 0 && !raised {
			t.Fatalf("the same weights change %d slots", changed)
		}
	}
}

// TestReassignFewest: as many slots change as some endpoint has too few, and no more.
func TestReassignFewest(t *testing.T) {
	slots := []int32{4, 4, 4, 4, 7, 7, 9, 9}
	place := []int{-1, -1, -1, -1, 0, -1, -1, -1, -1, 1}
	if changed := reassign(slots, []int32{4, 9}, place, []int{3, 5}); changed != 3 {
		t.Errorf("%d slots change, want 3: one of endpoint 4 and the two of endpoint 7, which is gone", changed)
	}
	slices.Sort(slots)
	if want := []int32{4, 4, 4, 9, 9, 9, 9, 9}; !slices.Equal(slots, want) {
		t.Errorf("slots %v, want %v", slots, want)
	}
}

// TestSmallNoiseMovesNoSlot: counts that differ by less than a slot's part change nothing.
func TestSmallNoiseMovesNoSlot(t *testing.T) {
	have := []int{7, 7, 7, 7, 6, 6, 6, 6, 6, 6}
	weights := []float64{1.05, 0.95, 1, 1, 1.02, 0.98, 1, 1, 1, 1}
	if got := apportion(weights, have, 64, 3); !slices.Equal(got, have) {
		t.Errorf("the slots become %v, want %v", got, have)
	}
}

// TestQueue: events come in order of their times, and those of one time in order of their numbers.
func TestQueue(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var q queue[event]
	for seq := range uint64(1000) {
		q.push(event{at: float64(r.IntN(100)), seq: seq})
	}
	last := event{at: -1}
	for len(q) > 0 {
		e := q.pop()
		if e.at < last.at || e.at == last.at && e.seq < last.seq {
			t.Fatalf("event %d at %.0f follows event %d at %.0f", e.seq, e.at, last.seq, last.at)
		}
		last = e
	}
}
