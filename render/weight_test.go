package render

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"nfproxy/nft"
)

// weighted returns endpoints with these weights.
func weighted(weights ...int) []Endpoint {
	all := make([]Endpoint, len(weights))
	for i, w := range weights {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		all[i] = Endpoint{AddrPort: netip.AddrPortFrom(addr, 80), Node: "a", Ready: true, Weight: uint16(w)}
	}
	return all
}

func TestSlotCounts(t *testing.T) {
	for _, c := range []struct {
		weights, want []int
	}{
		{[]int{}, nil},
		{[]int{7}, nil},
		{[]int{1, 1, 1}, nil},
		{[]int{5, 5}, nil},
		{[]int{0, 1}, nil}, // 0 is the default, 1
		{[]int{1, 2}, []int{1, 2}},
		{[]int{6, 9, 3}, []int{2, 3, 1}},
		{[]int{99, 1}, []int{99, 1}},
		{[]int{1000, 999}, []int{512, 512}},
		{[]int{1000, 1000, 1}, []int{512, 511, 1}},
		{[]int{1000, 500, 1}, []int{682, 341, 1}},
	} {
		if got := slotCounts(weighted(c.weights...)); !slices.Equal(got, c.want) {
			t.Errorf("weights %v: slots %v, want %v", c.weights, got, c.want)
		}
	}
}

// TestSlotCountsAreFair: of random weights, each endpoint has a slot, there are at most maxSlots, and the share of an endpoint is
// exact if the weights fit; otherwise it differs by at most one slot from its share of those that the endpoints below one slot leave.
func TestSlotCountsAreFair(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	rounded := 0
	for range 20_000 {
		weights := make([]int, 1+random.IntN(40))
		largest := []int{3, 20, MaxWeight}[random.IntN(3)]
		sum := 0
		for i := range weights {
			weights[i] = 1 + random.IntN(largest)
			sum += weights[i]
		}
		endpoints := weighted(weights...)
		counts := slotCounts(endpoints)
		if counts == nil {
			continue
		}
		total := slotCount(endpoints)
		if total > maxSlots(len(weights)) {
			t.Fatalf("%v: %d slots", weights, total)
		}
		exact, small, sumOfSmall := true, 0, 0
		for i, n := range counts {
			exact = exact && n*sum == weights[i]*total
			if n == 1 {
				small, sumOfSmall = small+1, sumOfSmall+weights[i]
			}
		}
		if exact {
			continue
		}
		rounded++
		if total != maxSlots(len(weights)) {
			t.Fatalf("%v: %d slots are neither exact nor the maximum", weights, total)
		}
		for i, n := range counts {
			if n < 1 {
				t.Fatalf("%v: endpoint %d has %d slots", weights, i, n)
			}
			fair := float64(weights[i]) * float64(total-small) / float64(sum-sumOfSmall)
			if n > 1 && math.Abs(fair-float64(n)) > 1.5 {
				t.Fatalf("%v: endpoint %d has %d slots of %d, a fair share is %.2f", weights, i, n, total, fair)
			}
		}
	}
	if rounded < 1000 {
		t.Errorf("only %d cases were rounded", rounded)
	}
}

// TestWeightedSlotsStay: when weights and endpoints change at random, the slots hold each endpoint as often as its weight says, and
// no more slots change than necessary.
func TestWeightedSlotsStay(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	of := func(endpoints []Endpoint) slots {
		all := repeated(pack(endpoints), slotCounts(endpoints))
		return slots{set: SchemaOf(nft.IPv4).Endpoints, frontend: "frontend", endpoints: all, sorted: all}
	}
	installed := of(weighted(1))
	for step := range 3000 {
		weights := make([]int, 1+random.IntN(8))
		for i := range weights {
			weights[i] = random.IntN(6)
		}
		wanted := of(slices.DeleteFunc(weighted(weights...), func(e Endpoint) bool { return e.Weight == 0 }))
		next := keepSlots([]slots{installed}, []slots{wanted})[0]
		name := fmt.Sprintf("step %d, weights %v", step, weights)
		if got := slices.Sorted(slices.Values(next.bySlot().values())); !slices.Equal(got, wanted.bySlot().values()) {
			t.Fatalf("%s: slots hold %q, want %q", name, got, wanted.bySlot().values())
		}
		gone, added := differences(packed{installed.sorted, wanted.width()}, packed{wanted.sorted, wanted.width()})
		written := 0
		for i := range next.bySlot().len() {
			if i >= installed.bySlot().len() || next.bySlot().at(i) != installed.bySlot().at(i) {
				written++
			}
		}
		// Each new copy is written once, and each one beyond the new end moves.
		if most := len(added) + max(0, installed.bySlot().len()-next.bySlot().len()); written > most {
			t.Fatalf("%s: %d slots are written for %d gone and %d added", name, written, len(gone), len(added))
		}
		installed = next
	}
}
