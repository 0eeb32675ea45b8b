package main

import (
	"fmt"

	"nfproxy/integration/report/balance"
)

// result is the result of an experiment with one policy.
type result struct {
	experiment string
	policy     balance.Policy
	nodes      int // 0 if the result does not depend on it
	balance.Result
}

type results []result

// run runs an experiment with all its policies: first those that do not depend on the nodes.
func run(e experiment) (all results) {
	for _, p := range e.policies {
		if !ownCounts(p) {
			all = append(all, result{e.name, p, 0, simulate(e, e.nodes[0], p)})
		}
	}
	for _, n := range e.nodes {
		for _, p := range e.policies {
			if ownCounts(p) {
				all = append(all, result{e.name, p, n, simulate(e, n, p)})
			}
		}
	}
	return all
}

// ownCounts reports whether a policy uses what one node has counted.
func ownCounts(p balance.Policy) bool {
	return p.Kind == balance.Counts || p.Kind == balance.Least || p.Kind == balance.TwoOwn
}

// simulate returns the medians over the seeds.
func simulate(e experiment, nodes int, p balance.Policy) balance.Result {
	var all []balance.Result
	for seed := range e.seeds {
		all = append(all, balance.Run(e.scenario(nodes), p, uint64(seed)+1))
	}
	return balance.Median(all)
}

// of returns one result. nodes is 0 if it does not depend on it.
func (all results) of(experiment, policy string, nodes int) (result, error) {
	for _, r := range all {
		if r.experiment == experiment && r.policy.Name == policy && r.nodes == nodes {
			return r, nil
		}
	}
	return result{}, fmt.Errorf("there is no result of %s with %s on %d nodes", experiment, policy, nodes)
}
