package watcher

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"nfproxy/render"
)

// The annotations of EndpointSlices.
const (
	annotationWeight       = "nfproxy.io/weight"
	annotationWeightCilium = "service.cilium.io/weight"
)

// weight is the weight that an EndpointSlice gives its endpoints: see render.Endpoint. The zero value is the default.
type weight struct {
	share   uint16
	drained bool
}

// reduceWeight returns the weight in an EndpointSlice, the default if there is none or it is invalid.
func reduceWeight(annotations map[string]string, problems problemList) weight {
	text, field, ok := annotated(annotations, annotationWeight, annotationWeightCilium)
	if !ok {
		return weight{}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n > render.MaxWeight {
		problems.add(field, fmt.Sprintf("%s is not a weight from 0 to %d; the endpoints get weight 1", quoted(text), render.MaxWeight))
		return weight{}
	}
	return weight{share: uint16(n), drained: n == 0}
}

// number returns the weight as an annotation names it.
func (w weight) number() int {
	if w.drained {
		return 0
	}
	return max(int(w.share), 1)
}

// disagreements returns the problems of EndpointSlices that have an endpoint of a Service port with another weight than the one that
// holds: for each slice one, of its first such endpoint. It looks for endpoints that several slices have only if their weights differ
// and the joined ports have fewer endpoints than the slices.
func disagreements(ports []render.Port, from []*slice) (problems []Problem) {
	differs := func(s *slice) bool { return s.weight.number() != from[0].weight.number() }
	if !slices.ContainsFunc(from, differs) {
		return nil
	}
	reported := make(map[*slice]bool)
	for _, p := range ports {
		if countEndpoints([]render.Port{p}, from) == len(p.Endpoints) {
			continue
		}
		for _, same := range sliceEndpoints(p, from) {
			for _, e := range same[1:] {
				if len(problems) == maxProblems {
					return problems
				}
				if e.from.weight.number() == same[0].from.weight.number() || reported[e.from] {
					continue
				}
				reported[e.from] = true
				newProblemList(&problems, objectKey{sliceKind, e.from.namespace, e.from.name}).add(annotationField+annotationWeight+"]",
					fmt.Sprintf("%s is also in EndpointSlice %s, whose weight %d applies", e.AddrPort, same[0].from.name, same[0].from.weight.number()))
			}
		}
	}
	return problems
}

// sliceEndpoint is an endpoint as a slice has it.
type sliceEndpoint struct {
	render.Endpoint
	from *slice
}

// sliceEndpoints returns the endpoints of a port that several slices have, sorted by address and port, with the preferred one first.
func sliceEndpoints(port render.Port, from []*slice) (all [][]sliceEndpoint) {
	var list []sliceEndpoint
	for _, s := range from {
		for number := range s.numbers(port) {
			for _, e := range s.at(number) {
				list = append(list, sliceEndpoint{e, s})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b sliceEndpoint) int {
		return cmp.Or(a.AddrPort.Compare(b.AddrPort), preference(a.Endpoint, b.Endpoint))
	})
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].AddrPort == list[0].AddrPort {
			n++
		}
		if n > 1 {
			all = append(all, list[:n])
		}
		list = list[n:]
	}
	return all
}
