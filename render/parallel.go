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

// buildRules returns the rules of each of the Services.
func buildRules(n Node, services []Service) []ServiceRules {
	all := make([]ServiceRules, len(services))
	inShares(len(services), func(i int) { all[i] = RulesOf(n, services[i]) })
	return all
}

// inShares calls do for all numbers below n, each processor for a share of them. The caller's goroutine has the last share, the only
// one if n is 1.
func inShares(n int, do func(i int)) {
	doAll := func(first, end int) {
		for i := first; i < end; i++ {
			do(i)
		}
	}
	share := n/runtime.GOMAXPROCS(0) + 1
	var others sync.WaitGroup
	last := 0 // the first number of the last share
	for first := 0; first+share < n; first += share {
		others.Go(func() { doAll(first, first+share) })
		last = first + share
	}
	doAll(last, n)
	others.Wait()
}
