package watcher

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"nfproxy/nft"
	"nfproxy/render"
)

// joined is a Service joined with its EndpointSlices, and what it was joined from. It never changes.
type joined struct {
	service *service
	slices  []*slice // sorted by name
	// ports are the ports of the service with their endpoints, nil if these are more than the node may join.
	ports []render.Port
	// problems are those that the slices have only together.
	problems []Problem
}

// join combines a Service and its EndpointSlices. The result does not depend on the order of the slices: ports are in the
// Service's order, endpoints are sorted. If a Service has more endpoints than the node may join, those of all ports together, none
// is: each port of a slice multiplies its endpoints.
func join(n render.Node, svc *service, from []*slice) render.Service {
	return newJoined(n, svc, slices.SortedFunc(slices.Values(from), compareSlices)).value()
}

func newJoined(n render.Node, svc *service, from []*slice) *joined {
	j := &joined{service: svc, slices: from}
	j.fill(n, func(i int) []render.Endpoint { return endpoints(svc.Ports[i], from) })
	return j
}

// with returns the Service joined with slices of which some differ. The result is that of newJoined, but only the endpoints of
// slices that differ are looked at, unless they are many. Lists of endpoints that are equal to those of j are the same lists.
func (j *joined) with(n render.Node, from []*slice) *joined {
	next := &joined{service: j.service, slices: from}
	next.fill(n, func(i int) []render.Endpoint {
		p := j.service.Ports[i]
		if j.ports == nil {
			return endpoints(p, from)
		}
		have, differing := j.ports[i].Endpoints, j.differing(p, from)
		if len(differing)*len(from) <= len(have) {
			return spliced(have, differing, p, from)
		}
		if now := endpoints(p, from); !slices.EqualFunc(have, now, equalEndpoints) {
			return now
		}
		return have
	})
	return next
}

// differs reports whether j differs from a former state in the Service itself, and in the endpoints. Either can be nil, for a Service
// that does not exist.
func (j *joined) differs(before *joined) (service, endpoints bool) {
	switch {
	case j == before:
		return false, false
	case j == nil:
		return true, before.hasEndpoints()
	case before == nil:
		return true, j.hasEndpoints()
	}
	service = j.service != before.service && !equalApartFromEndpoints(j.service.Service, before.service.Service) ||
		(j.ports == nil) != (before.ports == nil) || !slices.Equal(j.ignored(), before.ignored())
	same := equalLists
	if j.service == before.service { // by with
		same = sameLists
	}
	return service, !slices.EqualFunc(j.ports, before.ports, func(a, b render.Port) bool { return same(a.Endpoints, b.Endpoints) })
}

func (j *joined) hasEndpoints() bool {
	return slices.ContainsFunc(j.ports, func(p render.Port) bool { return len(p.Endpoints) > 0 })
}

// fill sets the ports of j with the endpoints of each, unless there are too many, and the problems.
func (j *joined) fill(n render.Node, endpoints func(port int) []render.Endpoint) {
	if !render.EndpointsWithinBound(n, countEndpoints(j.service.Ports, j.slices)) {
		return
	}
	j.ports = slices.Clone(j.service.Ports)
	for i := range j.ports {
		j.ports[i].Endpoints = endpoints(i)
	}
	j.problems = disagreements(j.ports, j.slices)
}

// value returns the joined Service.
func (j *joined) value() render.Service {
	s := j.service.Service
	s.Ignored = j.ignored()
	if s.Ports = j.ports; j.ports == nil && len(j.service.Ports) > 0 {
		return render.Unported(s)
	}
	return s
}

// ignored returns the annotations of the Service and its slices that are invalid or disagree, as many as are reported of one object.
// Most Services have none, so that they are not kept.
func (j *joined) ignored() []render.IgnoredAnnotation {
	all := ignoredAnnotations(j.service.problems)
	for _, s := range j.slices {
		if all = append(all, ignoredAnnotations(s.problems)...); len(all) >= maxProblems {
			return all[:maxProblems]
		}
	}
	all = append(all, ignoredAnnotations(j.problems)...)
	return all[:min(len(all), maxProblems)]
}

func compareSlices(a, b *slice) int { return cmp.Compare(a.name, b.name) }

// countEndpoints returns the number of endpoints that ports have in EndpointSlices, each as often as it is there.
func countEndpoints(ports []render.Port, from []*slice) (count int) {
	type key struct {
		name     string
		protocol nft.Protocol
	}
	has := make(map[key]bool, len(ports))
	for _, p := range ports {
		has[key{p.Name, p.Protocol}] = true
	}
	for _, s := range from {
		for _, p := range s.ports {
			if has[key{p.name, p.protocol}] {
				count += len(s.endpoints)
			}
		}
	}
	return count
}

// endpoints returns the endpoints of one Service port, sorted by address and port, each address and port once. While the
// controller moves an endpoint from one slice to another, both contain it for a moment. Then the preferred one is kept, and of
// equal ones the first by slice name.
func endpoints(port render.Port, from []*slice) []render.Endpoint {
	var lists [][]render.Endpoint
	for _, s := range from {
		for number := range s.numbers(port) {
			lists = append(lists, s.at(number))
		}
	}
	if len(lists) == 1 {
		return lists[0]
	}
	return uniqueEndpoints(slices.Concat(lists...))
}

// numbers yields the numbers that a Service port has in the slice.
func (s *slice) numbers(port render.Port) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for _, p := range s.ports {
			if p.name == port.Name && p.protocol == port.Protocol && !yield(p.port) {
				return
			}
		}
	}
}

// uniqueEndpoints returns endpoints sorted by address and port, the preferred one of each address and port. It returns the list
// itself if that is sorted already.
func uniqueEndpoints(all []render.Endpoint) []render.Endpoint {
	if ascending(all) {
		return all
	}
	all = slices.Clone(all)
	// The sort is stable: of equal endpoints the first is kept.
	slices.SortStableFunc(all, func(a, b render.Endpoint) int { return cmp.Or(a.AddrPort.Compare(b.AddrPort), preference(a, b)) })
	return slices.CompactFunc(all, func(a, b render.Endpoint) bool { return a.AddrPort == b.AddrPort })
}

// ascending reports whether each endpoint has a lower address and port than the next.
func ascending(all []render.Endpoint) bool {
	for i := 1; i < len(all); i++ {
		if all[i-1].AddrPort.Compare(all[i].AddrPort) >= 0 {
			return false
		}
	}
	return true
}

// preference orders endpoints with the same address and port: one that is not terminating is preferred, as in kube-proxy, and then
// one that is ready. If slices disagree about the weight, the smaller one is preferred, 0 before all: maintenance is not overlooked.
func preference(a, b render.Endpoint) int {
	return cmp.Or(falseFirst(a.Terminating, b.Terminating), falseFirst(!a.Ready, !b.Ready),
		falseFirst(!a.Drained, !b.Drained), cmp.Compare(max(a.Weight, 1), max(b.Weight, 1)))
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// differing returns the addresses and ports of the endpoints that a port has in only one of j.slices and from, or not alike, sorted,
// each once.
func (j *joined) differing(port render.Port, from []*slice) []netip.AddrPort {
	var all []netip.AddrPort
	for before, after := range pairs(j.slices, from) {
		for number := range before.numbers(port) {
			all = appendDiffering(all, before, after, port, number)
		}
		for number := range after.numbers(port) {
			all = appendDiffering(all, after, before, port, number)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

// appendDiffering appends the endpoints at a port number of slice s that are not alike in other.
func appendDiffering(all []netip.AddrPort, s, other *slice, port render.Port, number uint16) []netip.AddrPort {
	has := false
	for n := range other.numbers(port) {
		has = has || n == number
	}
	for _, e := range s.endpoints {
		if o, ok := other.find(e.Addr()); !ok || !has || !alike(e, o) {
			all = append(all, netip.AddrPortFrom(e.Addr(), number))
		}
	}
	return all
}

// pairs yields the slices of two lists, sorted by name, that differ: before and after, of which one can be an empty slice.
func pairs(before, after []*slice) iter.Seq2[*slice, *slice] {
	return func(yield func(before, after *slice) bool) {
		none := &slice{}
		for len(before)+len(after) > 0 {
			b, a := none, none
			switch {
			case len(after) == 0 || len(before) > 0 && before[0].name < after[0].name:
				b, before = before[0], before[1:]
			case len(before) == 0 || after[0].name < before[0].name:
				a, after = after[0], after[1:]
			default:
				b, a, before, after = before[0], after[0], before[1:], after[1:]
			}
			if a != b && !yield(b, a) {
				return
			}
		}
	}
}

// spliced returns a list of sorted endpoints with those at some addresses and ports, also sorted, as they are in slices. If they are
// alike, it returns the list itself.
func spliced(have []render.Endpoint, at []netip.AddrPort, port render.Port, from []*slice) []render.Endpoint {
	rest, all := have, []render.Endpoint(nil)
	for _, a := range at {
		i, there := slices.BinarySearchFunc(rest, a, func(e render.Endpoint, a netip.AddrPort) int { return e.AddrPort.Compare(a) })
		e, stays := preferred(a, port, from)
		if there == stays && (!there || alike(e, rest[i])) {
			continue
		}
		if all == nil {
			all = make([]render.Endpoint, 0, len(have)+len(at))
		}
		all, rest = append(all, rest[:i]...), rest[i:]
		if stays {
			all = append(all, e)
		}
		if there {
			rest = rest[1:]
		}
	}
	if all == nil {
		return have
	}
	return append(all, rest...)
}

// preferred returns the endpoint of a port at an address and port in slices, false if there is none.
func preferred(at netip.AddrPort, port render.Port, from []*slice) (best render.Endpoint, found bool) {
	for _, s := range from {
		for number := range s.numbers(port) {
			if number != at.Port() {
				continue
			}
			if e, ok := s.find(at.Addr()); ok && (!found || preference(e, best) < 0) {
				best, found = e, true
			}
		}
	}
	best.AddrPort = at
	return best, found
}

// equal reports whether two joined Services are rendered alike. The order of lists counts, because both are results of join.
func equal(a, b render.Service) bool {
	return equalApartFromEndpoints(a, b) &&
		slices.EqualFunc(a.Ports, b.Ports, func(a, b render.Port) bool { return equalLists(a.Endpoints, b.Endpoints) })
}

func equalApartFromEndpoints(a, b render.Service) bool {
	return a.ServiceName == b.ServiceName && a.Created.Equal(b.Created) &&
		slices.Equal(a.ClusterIPs, b.ClusterIPs) && slices.Equal(a.ExternalIPs, b.ExternalIPs) &&
		slices.Equal(a.LoadBalancerIPs, b.LoadBalancerIPs) && slices.Equal(a.SourceRanges, b.SourceRanges) &&
		a.InternalLocal == b.InternalLocal && a.ExternalLocal == b.ExternalLocal &&
		a.HealthCheckNodePort == b.HealthCheckNodePort && a.Affinity == b.Affinity &&
		a.Hashing == b.Hashing && a.SlowStart == b.SlowStart && a.Limits == b.Limits &&
		a.Excess == b.Excess && slices.Equal(a.Unserved, b.Unserved) && slices.Equal(a.Ignored, b.Ignored) &&
		slices.EqualFunc(a.Ports, b.Ports, func(a, b render.Port) bool {
			return a.Name == b.Name && a.Protocol == b.Protocol && a.Port == b.Port && a.NodePort == b.NodePort
		})
}

func equalLists(a, b []render.Endpoint) bool {
	return sameLists(a, b) || slices.EqualFunc(a, b, equalEndpoints)
}

// sameLists reports whether two lists are one.
func sameLists(a, b []render.Endpoint) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func equalEndpoints(a, b render.Endpoint) bool { return a.AddrPort == b.AddrPort && alike(a, b) }

// alike reports whether two endpoints are equal but for the address and port.
func alike(a, b render.Endpoint) bool {
	return a.Node == b.Node && a.Ready == b.Ready && a.Serving == b.Serving && a.Terminating == b.Terminating &&
		a.Weight == b.Weight && a.Drained == b.Drained && equalHints(a.Hints, b.Hints)
}

func equalHints(a, b *render.Hints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Zones, b.Zones) && slices.Equal(a.Nodes, b.Nodes)
}
