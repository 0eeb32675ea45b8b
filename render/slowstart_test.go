package render

import (
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
)

// slowService returns a Service with a slow start of ten seconds, and ready endpoints with these weights.
func slowService(weights ...int) Service {
	return Service{ServiceName: ServiceName{"ns", "s"}, SlowStart: 10 * time.Second, Ports: []Port{{Name: "p", Endpoints: weighted(weights...)}}}
}

func weightsOf(s Service) (all []int) {
	for _, e := range s.Ports[0].Endpoints {
		all = append(all, int(e.Weight))
	}
	return all
}

// TestSlowStart: a newly ready endpoint begins with a tenth of its weight and gets another tenth with each tenth of the time.
func TestSlowStart(t *testing.T) {
	s, now := NewSlowStart(), time.Unix(1000, 0)
	take := func(service Service) []int {
		t.Helper()
		return weightsOf(s.Take(Update{Services: []Service{service}}, now).Services[0])
	}
	want := func(got, want []int) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("at %v the weights are %v, want %v", now.Unix()-1000, got, want)
		}
	}
	want(take(slowService(1, 3)), []int{1, 3}) // the first Update
	if _, grows := s.Next(); grows {
		t.Error("what the first Update has grows")
	}
	now = now.Add(time.Minute)
	want(take(slowService(1, 3, 2)), []int{10, 30, 2})
	for second := 1; second < 9; second++ {
		next, grows := s.Next()
		if now = now.Add(time.Second); !grows || !next.Equal(now) {
			t.Fatalf("the next step is at %v, %t, want %v", next, grows, now)
		}
		u, ok := s.Due(now)
		if !ok || len(u.Services) != 1 {
			t.Fatalf("%d Services are due, %t", len(u.Services), ok)
		}
		want(weightsOf(u.Services[0]), []int{10, 30, 2 * (1 + second)})
	}
	want(take(slowService(1, 3, 2)), []int{10, 30, 18}) // an Update in between
	now = now.Add(time.Second)
	u, _ := s.Due(now)
	want(weightsOf(u.Services[0]), []int{1, 3, 2})
	if _, grows := s.Next(); grows {
		t.Error("a full weight grows")
	}
}

// TestSlowStartOf: which endpoints begin slowly, and which do not.
func TestSlowStartOf(t *testing.T) {
	now := time.Unix(1000, 0)
	unready := slowService(1, 1)
	unready.Ports[0].Endpoints[1].Ready = false
	none, plain := slowService(), slowService(1, 1)
	plain.SlowStart = 0
	for _, c := range []struct {
		name string
		from []Service
		want []int
	}{
		{"added", []Service{slowService(1), slowService(1, 1)}, []int{10, 1}},
		{"ready again", []Service{slowService(1, 1), unready, slowService(1, 1)}, []int{10, 1}},
		{"first endpoints", []Service{none, slowService(1, 1)}, []int{1, 1}},
		{"without the annotation", []Service{slowService(1), plain}, []int{1, 1}},
		{"the annotation removed meanwhile", []Service{slowService(1), slowService(1, 1), plain}, []int{1, 1}},
		{"gone meanwhile", []Service{slowService(1), slowService(1, 1), slowService(1)}, []int{1}},
	} {
		s := NewSlowStart()
		s.Take(Update{}, now)
		var got Service
		for _, service := range c.from {
			original := weightsOf(service)
			u := Update{Services: []Service{service}}
			got = s.Take(u, now).Services[0]
			if !slices.Equal(weightsOf(service), original) {
				t.Errorf("%s: Take changes the Update it is given", c.name)
			}
		}
		if !slices.Equal(weightsOf(got), c.want) {
			t.Errorf("%s: the weights are %v, want %v", c.name, weightsOf(got), c.want)
		}
		s.Take(Update{Removed: []ServiceName{got.ServiceName}}, now)
		if _, grows := s.Next(); grows {
			t.Errorf("%s: a removed Service grows", c.name)
		}
	}
}

// TestSlowStartWithinBound: what a Service may cost is bounded by what it costs while its endpoints grow.
func TestSlowStartWithinBound(t *testing.T) {
	n := Node{Name: "a", MaxServiceElements: 400}
	service := func(endpoints int) Service {
		s := slowService(slices.Repeat([]int{1}, endpoints)...)
		s.ClusterIPs, s.ExternalIPs = addrs("10.96.0.1"), addrs("203.0.113.1")
		s.Ports[0].Protocol, s.Ports[0].Port = nft.TCP, 80
		return s
	}
	for endpoints := 1; endpoints < 60; endpoints++ {
		s, now := NewSlowStart(), time.Unix(1000, 0)
		s.Take(Update{Node: n, Services: []Service{Bound(n, service(endpoints))}}, now)
		grown := s.Take(Update{Node: n, Services: []Service{Bound(n, service(endpoints+1))}}, now).Services[0]
		grown.SlowStart = 0 // the weights of the moment
		if cost := Cost(n, grown, 10_000); cost > int(n.MaxServiceElements) {
			t.Fatalf("%d endpoints, one of them new, cost %d elements, more than %d", endpoints+1, cost, n.MaxServiceElements)
		}
	}
}
