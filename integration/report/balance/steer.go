package balance

import (
	"math"
	"slices"
)

// shares returns the weights of endpoints by the counts of one node, of which none is negative. An endpoint that has not been counted yet
// has NaN, and the weight of the mean. The weight is the inverse of the count, relative to the mean and within the range, so that an
// endpoint that is some percent above the mean gets as many percent less of the new connections. One is added to counts, so that
// small ones, which are mostly noise, have little effect.
func shares(counts []float64, limit float64) []float64 {
	mean := meanOfKnown(counts)
	weights := make([]float64, len(counts))
	for i, c := range counts {
		weights[i] = 1
		if !math.IsNaN(c) {
			weights[i] = min(max((mean+1)/(c+1), 1/limit), limit)
		}
	}
	return weights
}

// toLeast returns weights that send everything to the lowest count.
func toLeast(counts []float64) []float64 {
	weights := make([]float64, len(counts))
	least := 0
	for i, c := range counts {
		if c < counts[least] {
			least = i
		}
	}
	weights[least] = 1
	return weights
}

func meanOfKnown(counts []float64) float64 {
	sum, known := 0.0, 0.0
	for _, c := range counts {
		if !math.IsNaN(c) {
			sum, known = sum+c, known+1
		}
	}
	if known == 0 {
		return 0
	}
	return sum / known
}

// apportion divides slots among endpoints by their weights, at least one for each. An endpoint that is less than one slot from its part
// keeps the number that it has, where the sum allows it: otherwise noise would move slots to and fro. Of endpoints with the same claim
// the first from number first on gets a slot: if that were the same endpoint on all nodes, it would get more connections than the others.
func apportion(weights []float64, have []int, slots, first int) []int {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	parts, want := make([]float64, len(weights)), make([]int, len(weights))
	left := slots
	for i, w := range weights {
		parts[i] = float64(slots) * w / sum
		want[i] = have[i]
		if math.Abs(parts[i]-float64(have[i])) >= 1 || have[i] == 0 {
			want[i] = max(1, int(math.Round(parts[i])))
		}
		left -= want[i]
	}
	for ; left > 0; left-- {
		want[furthest(len(parts), first, func(i int) float64 { return parts[i] - float64(want[i]) })]++
	}
	for ; left < 0; left++ {
		want[furthest(len(parts), first, func(i int) float64 {
			if want[i] == 1 {
				return math.Inf(-1)
			}
			return float64(want[i]) - parts[i]
		})]--
	}
	return want
}

// furthest returns the first of n endpoints, from number first on, with the largest distance.
func furthest(n, first int, distance func(int) float64) int {
	best := first % n
	for i := range n {
		if at := (first + i) % n; distance(at) > distance(best) {
			best = at
		}
	}
	return best
}

// reassign gives endpoint number i in serving want[i] of the slots and returns how many slots it changed, the fewest possible. place is
// the number of each endpoint in serving, or -1.
func reassign(slots, serving []int32, place, want []int) (changed int) {
	left := slices.Clone(want)
	var free []int
	for at, e := range slots {
		if e >= 0 && place[e] >= 0 && left[place[e]] > 0 {
			left[place[e]]--
		} else {
			free = append(free, at)
		}
	}
	i := 0
	for _, at := range free {
		for left[i] == 0 {
			i++
		}
		slots[at] = serving[i]
		left[i]--
	}
	return len(free)
}

// read reads the counts of a node and assigns the slots anew.
func (s *simulation) read(n *node) {
	if !n.dirty && s.policy.Smooth == 1 {
		return // the same counts, the same slots
	}
	n.dirty = false
	for _, e := range s.serving {
		count := float64(n.entries[e])
		if math.IsNaN(n.counts[e]) {
			n.counts[e] = count
		}
		n.counts[e] += s.policy.Smooth * (count - n.counts[e])
	}
	s.result.wrote(s, s.assign(n))
}

// assign assigns the slots of a node by the counts that it has read, and returns how many it changed.
func (s *simulation) assign(n *node) (changed int) {
	counts, have := make([]float64, len(s.serving)), make([]int, len(s.serving))
	for i, e := range s.serving {
		counts[i] = n.counts[e]
	}
	for _, e := range n.slots {
		if e >= 0 && s.place[e] >= 0 {
			have[s.place[e]]++
		}
	}
	weights := shares(counts, s.policy.Range)
	if s.policy.Kind == Least {
		weights = toLeast(counts)
	}
	return reassign(n.slots, s.serving, s.place, apportion(weights, have, len(n.slots), n.number))
}
