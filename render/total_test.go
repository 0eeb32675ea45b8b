package render

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// costing returns a Service that costs a number of elements, at least 2, and was created at a second.
func costing(name string, elements, created int) Service {
	s := Service{ServiceName: ServiceName{"ns", name}, Created: time.Unix(int64(created), 0), ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []Port{{Name: "p", Protocol: 6, Port: 80}}}
	for i := range elements - 2 {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80), Ready: true})
	}
	return s
}

// TestTotal: which Services are left out when all together cost too much: the largest, of about the same size the newest. The bound is
// inclusive. A Service that is served is never left out for a new one of its size, or for a larger one.
func TestTotal(t *testing.T) {
	var total Total
	node, now := Node{Name: "n", MaxElements: 100}, make(map[ServiceName]Service)
	for i, step := range []struct {
		services []Service
		removed  []string
		changed  []string // others that the step changes
		left     []string // all that are left out then
	}{
		{services: []Service{costing("a", 20, 1), costing("b", 20, 2), costing("c", 60, 3)}},
		{services: []Service{costing("d", 2, 4)}, changed: []string{"c"}, left: []string{"c"}},
		{services: []Service{costing("c", 58, 3)}},
		{services: []Service{costing("c", 59, 3)}, left: []string{"c"}},
		{services: []Service{costing("e", 40, 5)}, left: []string{"c", "e"}}, // of c's size, and newer
		{services: []Service{costing("c", 50, 3)}, left: []string{"e"}},
		{services: []Service{costing("big", 90, 0)}, left: []string{"e", "big"}}, // the oldest, but the largest
		{removed: []string{"c"}, changed: []string{"e"}, left: []string{"big"}},
		{removed: []string{"a", "b", "d", "e"}, changed: []string{"big"}},
	} {
		var removed []ServiceName
		for _, name := range step.removed {
			removed = append(removed, ServiceName{"ns", name})
		}
		var changed []string
		for _, s := range step.services {
			now[s.ServiceName] = s
		}
		for _, name := range removed {
			delete(now, name)
		}
		for _, name := range total.Take(node, step.services, removed, maps.Values(now)) {
			changed = append(changed, name.Name)
		}
		if !slices.Equal(changed, step.changed) {
			t.Errorf("step %d changes %q, want %q", i, changed, step.changed)
		}
		for _, name := range []string{"a", "b", "c", "d", "e", "big"} {
			s := costing(name, 10, 0)
			got := total.Bound(s)
			if want := slices.Contains(step.left, name); (got.Excess == WithoutRoom) != want || (len(got.Ports) == 0) != want || len(got.ClusterIPs) != 1 {
				t.Errorf("step %d: %s is left out: %t, want %t", i, name, got.Excess == WithoutRoom, want)
			}
		}
	}
}

// TestTotalIsOneFunction: whatever the order in which Services come, change and go, those that are left out are the same, what the
// others cost is within the bound, and Take reports exactly the other Services whose decision changes.
func TestTotalIsOneFunction(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	left, exceeded := 0, 0
	for range 200 {
		node := Node{Name: "n", MaxElements: uint32(50 + r.IntN(400))}
		var walked Total
		now, served := make(map[ServiceName]Service), make(map[ServiceName]bool)
		for range 40 {
			var services []Service
			var removed []ServiceName
			for range 1 + r.IntN(3) {
				s := costing(fmt.Sprint("s", r.IntN(30)), 2+r.IntN(1<<r.IntN(8)), r.IntN(5))
				if slices.ContainsFunc(services, func(o Service) bool { return o.ServiceName == s.ServiceName }) || slices.Contains(removed, s.ServiceName) {
					continue
				}
				if r.IntN(4) == 0 {
					removed = append(removed, s.ServiceName)
					delete(now, s.ServiceName)
					continue
				}
				services = append(services, s)
				now[s.ServiceName] = s
			}
			changed := walked.Take(node, services, removed, maps.Values(now))
			var all []Service
			var fresh Total
			for _, s := range now {
				all = append(all, s)
			}
			fresh.Take(node, all, nil, slices.Values(all))
			sum := 0
			for _, s := range all {
				is := fresh.Bound(s).Excess == NoExcess
				if is != (walked.Bound(s).Excess == NoExcess) {
					t.Fatalf("%s: served %t by one Take, not by several", s, is)
				}
				was, had := served[s.ServiceName]
				taken := slices.ContainsFunc(services, func(o Service) bool { return o.ServiceName == s.ServiceName })
				if had && !taken && (is != was) != slices.Contains(changed, s.ServiceName) {
					t.Fatalf("%s: served %t, before %t, and reported: %q", s, is, was, changed)
				}
				served[s.ServiceName] = is
				if is {
					sum += Cost(node, s, math.MaxInt)
				} else {
					left++
				}
			}
			for name := range served {
				if _, there := now[name]; !there {
					delete(served, name)
				}
			}
			if sum > int(node.MaxElements) {
				exceeded++
			}
		}
	}
	if exceeded > 0 || left < 1000 {
		t.Errorf("the bound was exceeded %d times; %d Services were left out", exceeded, left)
	}
}

// BenchmarkTotal measures a change of one among 100,000 Services, within the bound and beyond it.
func BenchmarkTotal(b *testing.B) {
	for _, limit := range []uint32{0, 400_000} {
		b.Run(fmt.Sprint("bound=", limit), func(b *testing.B) {
			var total Total
			node := Node{Name: "n", MaxElements: limit}
			var all []Service
			for i := range 100_000 {
				all = append(all, costing(fmt.Sprint("s", i), 5, i))
			}
			start := time.Now()
			total.Take(node, all, nil, slices.Values(all))
			b.Logf("all of them take %s", time.Since(start))
			one := []Service{costing("s7", 6, 7)}
			for b.Loop() {
				total.Take(node, one, nil, slices.Values(all))
			}
		})
	}
}
