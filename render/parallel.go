package render

import (
	"iter"
	"runtime"
	"slices"
	"sync"
)

// rulesChunk is the number of Services whose rules rulesOf holds at a time.
const rulesChunk = 1024

// rulesOf yields Services with their rules, in the order of the Services. All processors build the rules of many Services: for a
// whole cluster this takes a large part of the time of an Update (BenchmarkLoad).
func rulesOf(n Node, services []Service) iter.Seq2[Service, ServiceRules] {
	return func(yield func(Service, ServiceRules) bool) {
		for services := range slices.Chunk(services, rulesChunk) {
			for i, rules := range buildRules(n, services) {
				if !yield(services[i], rules) {
					return
				}
			}
		}
	}
}

// buildRules returns the rules of each of the Services. The caller's goroutine builds one share of them, the only one if there is
// one Service.
func buildRules(n Node, services []Service) []ServiceRules {
	all := make([]ServiceRules, len(services))
	build := func(first, end int) {
		for i := first; i < end; i++ {
			all[i] = RulesOf(n, services[i])
		}
	}
	share := len(services)/runtime.GOMAXPROCS(0) + 1
	var others sync.WaitGroup
	last := 0 // the first Service of the last share
	for first := 0; first+share < len(services); first += share {
		others.Go(func() { build(first, first+share) })
		last = first + share
	}
	build(last, len(services))
	others.Wait()
	return all
}
