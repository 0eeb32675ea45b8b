package balance

import (
	"math"
	"reflect"
	"testing"
)

// sessions is a Service with about 1,000 long connections.
func sessions() Scenario {
	return Scenario{Nodes: 5, Endpoints: 5, Rate: 10, Duration: Lognormal{Median: 60, Sigma: 1}, Load: Lognormal{Median: 1, Sigma: 0.5}, From: 600, End: 1800, Sample: 5}
}

// requests is a Service with short connections, whose endpoints are busy for 62 % of the time.
func requests() Scenario {
	return Scenario{Nodes: 5, Endpoints: 5, Rate: 500, Duration: Lognormal{Median: 0.05}, Load: Lognormal{Median: 1}, Requests: true, From: 10, End: 40, Sample: 0.1}
}

// policies has one of each kind.
func policies() []Policy {
	return []Policy{{Kind: Random}, {Kind: Weights}, {Kind: HeadStart, Boost: 4, BoostTime: 60}, {Kind: TwoOwn}, {Kind: TwoCluster},
		{Kind: Counts, Every: 5, Slots: 64, Range: 8, Smooth: 1}, {Kind: Least, Every: 5, Slots: 64, Range: 1, Smooth: 1}}
}

// comparable returns a result without NaN, which differs from itself.
func comparable(r Result) Result {
	for _, v := range []*float64{&r.Rebalanced, &r.New, &r.Answered} {
		if math.IsNaN(*v) {
			*v = -1
		}
	}
	for i := range r.Samples {
		if math.IsNaN(r.Samples[i].New) {
			r.Samples[i].New = -1
		}
	}
	return r
}

// TestDeterministic: the same seed has the same result, and another seed another one.
func TestDeterministic(t *testing.T) {
	for _, scenario := range []Scenario{sessions(), requests()} {
		for _, p := range policies() {
			first, again, other := comparable(Run(scenario, p, 1)), comparable(Run(scenario, p, 1)), comparable(Run(scenario, p, 2))
			if !reflect.DeepEqual(first, again) {
				t.Errorf("policy %v: two runs with one seed differ", p.Kind)
			}
			if reflect.DeepEqual(first, other) {
				t.Errorf("policy %v: two seeds have the same result", p.Kind)
			}
		}
	}
}

// meanOpen returns the mean number of open connections of the last endpoint.
func meanOpen(r Result) float64 {
	sum := 0.0
	for _, s := range r.Samples {
		sum += s.One
	}
	return sum / float64(len(r.Samples))
}

// TestStationary: a scenario begins in the state in which it stays, with as many open connections as Little's law has it, under every
// policy.
func TestStationary(t *testing.T) {
	scenario := sessions()
	scenario.From, scenario.Endpoints = 0, 1
	for _, p := range policies() {
		r := Run(scenario, p, 1)
		third := len(r.Samples) / 3
		for _, part := range [][]Sample{r.Samples[:third], r.Samples[third:]} {
			if got, want := meanOpen(Result{Samples: part}), scenario.Open(); math.Abs(got/want-1) > 0.05 {
				t.Errorf("policy %v: %.0f open connections, want %.0f", p.Kind, got, want)
			}
		}
	}
}

// TestRequestsTakeTheirWork: a request to an endpoint that is never full takes its work, and twice that at half the speed.
func TestRequestsTakeTheirWork(t *testing.T) {
	calm := requests()
	calm.Rate = 5
	if r := Run(calm, Policy{Kind: Random}, 1); math.Abs(r.Answered-0.05) > 1e-6 {
		t.Errorf("99 of 100 requests take up to %.4f s, want 0.05", r.Answered)
	}
	calm.Slow = calm.Endpoints
	if r := Run(calm, Policy{Kind: Random}, 1); math.Abs(r.Answered-0.1) > 1e-6 {
		t.Errorf("with half the speed 99 of 100 requests take up to %.4f s, want 0.1", r.Answered)
	}
}

// TestSharedEndpoint: a busy endpoint has as many requests as a queue with Poisson arrivals and Workers servers (M/M/8), whatever the
// distribution of the work: that holds for all that share a processor.
func TestSharedEndpoint(t *testing.T) {
	const busy = 7.0 // workers, of 8
	terms, term := 0.0, 1.0
	for k := 1; k <= Workers; k++ {
		terms += term
		term *= busy / float64(k)
	}
	waits := term / (1 - busy/Workers)
	want := busy + waits/(terms+waits)*busy/(Workers-busy)
	for _, sigma := range []float64{0, 1} {
		work := Lognormal{Median: 0.05, Sigma: sigma}
		full := Scenario{Nodes: 1, Endpoints: 1, Rate: busy / work.Mean(), Duration: work, Load: Lognormal{Median: 1}, Requests: true, From: 100, End: 2000, Sample: 0.5}
		if got := meanOpen(Run(full, Policy{Kind: Random}, 1)); math.Abs(got/want-1) > 0.06 {
			t.Errorf("sigma %g: a busy endpoint has %.2f requests, want %.2f", sigma, got, want)
		}
	}
}

// TestOneNodeSeesTheCluster: with one node, its own counts are those of the cluster.
func TestOneNodeSeesTheCluster(t *testing.T) {
	scenario := sessions()
	scenario.Nodes = 1
	own, cluster := comparable(Run(scenario, Policy{Kind: TwoOwn}, 1)), comparable(Run(scenario, Policy{Kind: TwoCluster}, 1))
	if !reflect.DeepEqual(own, cluster) {
		t.Errorf("own counts: %.3f, the cluster's counts: %.3f, want the same", own.Open, cluster.Open)
	}
}

// TestCountsBalance: counts of a few nodes balance better than random, and read late they balance short connections worse.
func TestCountsBalance(t *testing.T) {
	counts := Policy{Kind: Counts, Every: 5, Slots: 64, Range: 8, Smooth: 1}
	long := sessions()
	long.Changes = []Change{{At: long.From, Kind: Add, Endpoint: 2}}
	if random, steered := Run(long, Policy{Kind: Random}, 1), Run(long, counts, 1); steered.Rebalanced >= random.Rebalanced {
		t.Errorf("after a scale-up: rebalanced after %.0f s, at random after %.0f s", steered.Rebalanced, random.Rebalanced)
	}
	if random, steered := Run(requests(), Policy{Kind: Random}, 1), Run(requests(), counts, 1); steered.Open <= random.Open {
		t.Errorf("short connections: most open %.2f, at random %.2f", steered.Open, random.Open)
	}
}

// TestWeightsFollowSpeeds: with weights, endpoints of all speeds are equally loaded.
func TestWeightsFollowSpeeds(t *testing.T) {
	scenario := sessions()
	scenario.Slow = 2
	if r := Run(scenario, Policy{Kind: Weights}, 1); r.Load > 1.2 {
		t.Errorf("highest load with weights is %.2f, want about 1", r.Load)
	}
	if r := Run(scenario, Policy{Kind: Random}, 1); r.Load < 1.4 {
		t.Errorf("highest load at random is %.2f, want about 1.6", r.Load)
	}
}

// TestFailingEndpoint: at random, an endpoint that fails gets its part of the connections; with two choices, twice that, because it has
// no open connections.
func TestFailingEndpoint(t *testing.T) {
	scenario := sessions()
	scenario.Changes = []Change{{At: scenario.From, Kind: Fail}}
	if r := Run(scenario, Policy{Kind: Random}, 1); math.Abs(r.Failed-0.2) > 0.02 {
		t.Errorf("at random %.3f of the attempts fail, want 0.2", r.Failed)
	}
	if r := Run(scenario, Policy{Kind: TwoCluster}, 1); math.Abs(r.Failed-0.4) > 0.04 {
		t.Errorf("with two choices %.3f of the attempts fail, want 0.4", r.Failed)
	}
	scenario.Changes = append(scenario.Changes, Change{At: scenario.From + 1, Kind: Recover})
	if r := Run(scenario, Policy{Kind: Random}, 1); r.Failed == 0 || r.Failed > 0.01 {
		t.Errorf("%.3f of the attempts fail although the endpoint recovers after a second", r.Failed)
	}
}

// TestRollingUpdateKeepsConnections: clients of replaced endpoints connect again, so that the number of connections stays, and no
// endpoint that is gone has any.
func TestRollingUpdateKeepsConnections(t *testing.T) {
	for _, changes := range [][]Change{Rolling(600, 60, 5), RollingAtOnce(600, 60, 5)} {
		for _, p := range policies() {
			scenario := sessions()
			scenario.Changes = changes
			s := newSimulation(scenario, p, 1)
			s.run()
			open := 0
			for i, e := range s.endpoints {
				open += e.open
				if s.place[i] < 0 && e.open > 0 {
					t.Errorf("policy %v: endpoint %d is gone and has %d connections", p.Kind, i, e.open)
				}
			}
			if want := scenario.Open(); math.Abs(float64(open)/want-1) > 0.15 {
				t.Errorf("policy %v: %d open connections after the update, want about %.0f", p.Kind, open, want)
			}
			for i, n := range s.nodes {
				for e, entries := range n.entries {
					if entries < 0 {
						t.Errorf("policy %v: node %d has %d entries of endpoint %d", p.Kind, i, entries, e)
					}
				}
			}
		}
	}
}

// TestMaxAge: no connection is older than the bound, and clients that need more connect again.
func TestMaxAge(t *testing.T) {
	scenario := sessions()
	s := newSimulation(scenario, Policy{Kind: Random, MaxAge: 30}, 1)
	s.run()
	open := 0
	for _, c := range s.connections {
		if c.open {
			open++
			if s.now-c.begun > 30.001 {
				t.Errorf("a connection is %.0f s old", s.now-c.begun)
			}
		}
	}
	if want := scenario.Open(); math.Abs(float64(open)/want-1) > 0.15 {
		t.Errorf("%d open connections, want about %.0f", open, want)
	}
}

// TestLostConnections: the entries of lost connections stay.
func TestLostConnections(t *testing.T) {
	scenario := sessions()
	scenario.Lost = 0.1
	s := newSimulation(scenario, Policy{Kind: Random}, 1)
	s.run()
	open, entries := 0, 0
	for _, e := range s.endpoints {
		open += e.open
	}
	for _, n := range s.nodes {
		for _, of := range n.entries {
			entries += int(of)
		}
	}
	if lost, want := float64(entries-open), scenario.Rate*scenario.End*scenario.Lost; math.Abs(lost/want-1) > 0.1 {
		t.Errorf("%.0f entries are lost, want %.0f", lost, want)
	}
}
