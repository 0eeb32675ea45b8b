package render

import (
	"cmp"
	"net/netip"
	"slices"

	"nfproxy/nft"
)

// MaxWeight is the largest weight of an endpoint.
const MaxWeight = 1000

// weightedSlots is up to how many slots the weights of a frontend's endpoints are exact, and weightedSlotsEach the same for each
// endpoint, if that is more. Beyond that, weights are rounded.
const (
	weightedSlots     = 1024
	weightedSlotsEach = 8
)

// weight returns the weight of an endpoint that gets new connections.
func (e Endpoint) weight() int { return max(int(e.Weight), 1) }

// equalWeights reports whether all endpoints have the same weight.
func equalWeights(endpoints []Endpoint) bool {
	for i := range endpoints {
		if endpoints[i].weight() != endpoints[0].weight() {
			return false
		}
	}
	return true
}

// slotCounts returns the number of slots that each endpoint of a frontend gets, nil if each gets one: the weights, divided by their
// greatest common divisor. If these are more slots than maxSlots, they are rounded to that number, and each endpoint keeps at least
// one.
func slotCounts(endpoints []Endpoint) []int {
	if equalWeights(endpoints) {
		return nil
	}
	counts, divisor, sum := make([]int, len(endpoints)), 0, 0
	for i, e := range endpoints {
		counts[i] = e.weight()
		divisor = greatestCommonDivisor(divisor, counts[i])
	}
	for i := range counts {
		counts[i] /= divisor
		sum += counts[i]
	}
	if limit := maxSlots(len(endpoints)); sum > limit {
		roundTo(limit, counts, sum)
	}
	return counts
}

// slotCount returns the number of slots that endpoints of a frontend get together.
func slotCount(endpoints []Endpoint) int {
	counts := slotCounts(endpoints)
	if counts == nil {
		return len(endpoints)
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return sum
}

// slotLimit returns an upper bound of the number of slots that some of a Service's endpoints get together at a frontend.
func slotLimit(n Node, s Service, endpoints []Endpoint) int {
	switch {
	case s.Hashing != NoHashing:
		return max(n.maglevSize(), maxSlots(len(endpoints)))
	case equalWeights(endpoints) && s.SlowStart == 0:
		return len(endpoints)
	}
	return maxSlots(len(endpoints))
}

// maxSlots returns the largest number of slots of a number of endpoints that differ in weight.
func maxSlots(endpoints int) int {
	return min(max(weightedSlots, weightedSlotsEach*endpoints), MaxEndpoints)
}

func greatestCommonDivisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// roundTo changes counts, of which sum is the sum, in proportion so that they have the sum total. None becomes less than one. What
// rounding leaves goes to the counts with the largest remainders, and of equal ones to the first.
func roundTo(total int, counts []int, sum int) {
	sum, total = raiseToOne(total, counts, sum)
	remainders := make([]int, len(counts))
	left := total
	for i, n := range counts {
		if n > 0 {
			counts[i], remainders[i] = n*total/sum, n*total%sum
			left -= counts[i]
		}
	}
	order := make([]int, len(counts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(remainders[j], remainders[i]) })
	for _, i := range order[:left] {
		counts[i]++
	}
	for i := range counts {
		counts[i] = max(counts[i], 1)
	}
}

// raiseToOne sets the counts to 0 that would be less than one of the total, and returns the sum of the others and what is left of the
// total for them when each of the former gets one. This repeats, because less is left for each then.
func raiseToOne(total int, counts []int, sum int) (restSum, rest int) {
	for raised := true; raised; {
		raised = false
		part, of := total, sum
		for i, n := range counts {
			if n > 0 && n*part < of {
				counts[i], raised = 0, true
				sum -= n
				total--
			}
		}
	}
	return sum, total
}

// weightedAddresses returns the address and port of each endpoint as often as the endpoint would have slots.
func weightedAddresses(endpoints []Endpoint) (all []netip.AddrPort) {
	counts := slotCounts(endpoints)
	for i, e := range endpoints {
		count := 1
		if counts != nil {
			count = counts[i]
		}
		for range count {
			all = append(all, e.AddrPort)
		}
	}
	return all
}

// repeated returns the data of endpoints with that of each as often as it has slots. No counts stand for one slot each.
func repeated(data nft.Value, counts []int) nft.Value {
	if len(counts) == 0 {
		return data
	}
	each := packed{data, len(data) / len(counts)}
	var all []byte
	for i, n := range counts {
		for range n {
			all = append(all, each.at(i)...)
		}
	}
	return nft.Value(all)
}
