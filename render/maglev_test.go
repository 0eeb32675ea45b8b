package render

import (
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// shareOf returns the number of slots of each endpoint.
func shareOf(table []int, endpoints int) []int {
	counts := make([]int, endpoints)
	for _, i := range table {
		counts[i]++
	}
	return counts
}

// TestMaglevShares: every endpoint has slots in proportion to its weight, and none has none.
func TestMaglevShares(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		size := []int{251, 1021, 4093}[random.IntN(3)]
		weights := make([]int, 1+random.IntN(50))
		sum := 0
		for i := range weights {
			weights[i] = 1 + random.IntN(10)
			sum += weights[i]
		}
		for i, n := range shareOf(maglev(weighted(weights...), size), len(weights)) {
			fair := float64(size) * float64(weights[i]) / float64(sum)
			if n < 1 || math.Abs(float64(n)-fair) > 1+fair/float64(len(weights)) && math.Abs(float64(n)-fair) > 3 {
				t.Fatalf("weights %v, %d slots: endpoint %d has %d, a fair share is %.1f", weights, size, i, n, fair)
			}
		}
	}
}

// TestMaglevIsStable: the table of the same endpoints is always the same, and its first slots are those of the first release: another
// table would move clients.
func TestMaglevIsStable(t *testing.T) {
	got := maglev(weighted(1, 1, 1, 1, 1), 251)[:16]
	if want := []int{1, 1, 0, 0, 2, 1, 1, 4, 2, 3, 2, 4, 4, 4, 0, 4}; !slices.Equal(got, want) {
		t.Errorf("the table begins with %v, want %v", got, want)
	}
}

// TestMaglevEqualShares: the numbers of slots of equal endpoints differ by one at most. With 100 slots for each this is 1 %, as in
// the paper (Eisenbud et al., section 3.4).
func TestMaglevEqualShares(t *testing.T) {
	for endpoints := 1; endpoints <= 251; endpoints += 10 {
		counts := shareOf(maglev(weighted(slices.Repeat([]int{1}, endpoints)...), 251), endpoints)
		if least, most := slices.Min(counts), slices.Max(counts); most-least > 1 {
			t.Errorf("%d endpoints have %d to %d slots", endpoints, least, most)
		}
	}
}

// TestMaglevDisruption: when one of N endpoints goes, its own slots move, and of the others a small part.
func TestMaglevDisruption(t *testing.T) {
	for _, c := range []struct {
		endpoints, size int
		most            float64 // part of the other endpoints' slots that may move
	}{{3, 1021, 0.05}, {10, 1021, 0.05}, {100, 1021, 0.15}, {100, 16381, 0.03}, {1000, MaxMaglevSize, 0.02}} {
		all := weighted(slices.Repeat([]int{1}, c.endpoints)...)
		before := maglev(all, c.size)
		worst := 0.0
		for gone := range min(c.endpoints, 10) {
			moved, others := 0, 0
			for slot, now := range maglev(slices.Delete(slices.Clone(all), gone, gone+1), c.size) {
				if now >= gone {
					now++
				}
				if before[slot] == gone {
					continue
				}
				if others++; now != before[slot] {
					moved++
				}
			}
			worst = max(worst, float64(moved)/float64(others))
		}
		t.Logf("%d endpoints, %d slots: at most %.2f %% of the others' slots move", c.endpoints, c.size, 100*worst)
		if worst > c.most {
			t.Errorf("%d endpoints, %d slots: %.3f of the others' slots move, want %.3f at most", c.endpoints, c.size, worst, c.most)
		}
	}
}

// TestMaglevLikeThePaper repeats the experiments of the paper's section 5.3 with its 1,000 endpoints: shares (figure 11), and how many
// slots change when some endpoints, drawn at random, fail together (figure 12). The paper repeats each draw 200 times, this test ten
// times. The changes besides the slots of the failed endpoints themselves are few, and fewer in a larger table.
func TestMaglevLikeThePaper(t *testing.T) {
	const endpoints = 1000
	random := rand.New(rand.NewPCG(9, 10))
	all := weighted(slices.Repeat([]int{1}, endpoints)...)
	for _, c := range []struct {
		size, draws int
		most        map[int]float64 // slots of others that change, by the number of failures, as a part of all slots
	}{
		{MaxMaglevSize, 10, map[int]float64{1: 0.007, 5: 0.022, 10: 0.028, 20: 0.032}},
		{655373, 2, map[int]float64{1: 0.0042, 10: 0.007, 20: 0.0085}}, // larger than nfproxy allows: slots have 16 bits
	} {
		before := maglev(all, c.size)
		counts := shareOf(before, endpoints)
		t.Logf("%d slots: %d to %d for each endpoint", c.size, slices.Min(counts), slices.Max(counts))
		if least, most := slices.Min(counts), slices.Max(counts); most-least > 1 {
			t.Errorf("%d slots: the endpoints have %d to %d", c.size, least, most)
		}
		for _, failures := range slices.Sorted(maps.Keys(c.most)) {
			own, others := 0, 0
			for range c.draws {
				failed := make(map[int]bool)
				for _, i := range random.Perm(endpoints)[:failures] {
					failed[i] = true
				}
				left := make([]Endpoint, 0, endpoints)
				index := make([]int, 0, endpoints)
				for i, e := range all {
					if !failed[i] {
						left, index = append(left, e), append(index, i)
					}
				}
				for slot, now := range maglev(left, c.size) {
					switch {
					case failed[before[slot]]:
						own++
					case index[now] != before[slot]:
						others++
					}
				}
			}
			slots := float64(c.draws * c.size)
			t.Logf("%d slots, %d of %d fail: %.2f %% of the slots change, %.2f %% are slots of others", c.size, failures, endpoints,
				100*float64(own+others)/slots, 100*float64(others)/slots)
			if part := float64(others) / slots; part > c.most[failures] {
				t.Errorf("%d slots, %d of %d fail: %.4f of the slots change although their endpoints are there, want %.4f at most", c.size, failures,
					endpoints, part, c.most[failures])
			}
		}
	}
}

// TestMaglevOrder: the table does not depend on the order in which a source lists the endpoints.
func TestMaglevOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	all := weighted(3, 1, 4, 1, 5, 9, 2, 6)
	n := Node{MaglevSize: 251}
	s := Service{ServiceName: ServiceName{"ns", "s"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Hashing: HashClients,
		Ports: []Port{{Name: "p", Protocol: 6, Port: 80, Endpoints: all}}}
	want := Tables(Update{Node: n, Services: []Service{s}})[0].String()
	for range 20 {
		shuffled := slices.Clone(all)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		s.Ports = []Port{s.Ports[0]}
		s.Ports[0].Endpoints = shuffled
		if got := Tables(Update{Node: n, Services: []Service{s}})[0].String(); got != want {
			t.Fatalf("the order of the endpoints changes the table to\n%s\nfrom\n%s", got, want)
		}
	}
}

// TestMaglevKeepsNothing: a table follows from its endpoints alone, whatever the slots were before, and back at random endpoints are as
// if they had always been so.
func TestMaglevKeepsNothing(t *testing.T) {
	n := Node{MaglevSize: 251}
	service := func(h Hashing, weights ...int) Service {
		return Service{ServiceName: ServiceName{"ns", "s"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Hashing: h,
			Ports: []Port{{Name: "p", Protocol: 6, Port: 80, Endpoints: weighted(weights...)}}}
	}
	r := NewRuleset(n)
	r.Update(Update{Node: n})
	r.Observe(nil)
	r.Plan()
	r.Accept()
	for i, s := range []Service{service(NoHashing, 1, 2, 1), service(HashClients, 1, 2, 1), service(HashClients, 1, 2), service(HashConnections, 3, 2, 5),
		service(NoHashing, 3, 2, 5), service(HashClients, 1), service(HashClients, slices.Repeat([]int{1}, 300)...), service(HashClients, 2, 2)} {
		r.Update(Update{Node: n, Services: []Service{s}})
		r.Plan()
		r.Accept()
		got, want := SlotsOf(r.Tables()[0].Set("endpoints").Elements, r.services[s.ServiceName].applied.slots[0].frontend),
			Tables(Update{Node: n, Services: []Service{s}})[0].Set("endpoints").Elements
		if len(got) != len(want) {
			t.Fatalf("step %d: %d slots, want %d", i, len(got), len(want))
		}
		for j := range got {
			if s.Hashing != NoHashing && len(s.Ports[0].Endpoints) <= 251 && got[j].Data != want[j].Data {
				t.Fatalf("step %d: slot %d differs", i, j)
			}
		}
	}
}

// TestIsMaglevSize: a size is a prime for which slots have room.
func TestIsMaglevSize(t *testing.T) {
	for n, want := range map[int]bool{-7: false, 0: false, 1: false, 2: false, 3: true, 4: false, 250: false, 251: true, 1021: true, 1022: false,
		MaxMaglevSize: true, 65537: false} {
		if got := IsMaglevSize(n); got != want {
			t.Errorf("IsMaglevSize(%d) is %t", n, got)
		}
	}
}
