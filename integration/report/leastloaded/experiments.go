package main

import (
	"fmt"
	"math"
	"slices"

	"nfproxy/integration/report/balance"
)

const (
	minute = 60.0
	hour   = 60 * minute
)

// experiment is a scenario that is simulated with several policies and, if they depend on it, with several numbers of nodes.
type experiment struct {
	name     string
	title    string
	text     string // what the page says about it
	scenario func(nodes int) balance.Scenario
	nodes    []int
	policies []balance.Policy
	seeds    int
	columns  []column
}

// column is a measure in the table of an experiment.
type column struct {
	title  string
	of     func(balance.Result) float64
	format func(float64) string
}

// websockets is a Service with 10 endpoints and about 9,200 long connections: half of them end within five minutes, 12 % last for more
// than half an hour.
func websockets(nodes int) balance.Scenario {
	return balance.Scenario{Nodes: nodes, Endpoints: 10, Rate: 10, Duration: balance.Lognormal{Median: 5 * minute, Sigma: 1.5},
		Load: balance.Lognormal{Median: 1, Sigma: 0.5}, From: 2 * hour, End: 4 * hour, Sample: 5}
}

// grpc is a Service with 10 endpoints and about 400 connections, half of which last for an hour or more, and which carry very different
// loads.
func grpc(nodes int) balance.Scenario {
	return balance.Scenario{Nodes: nodes, Endpoints: 10, Rate: 0.0674, Duration: balance.Lognormal{Median: hour, Sigma: 1},
		Load: balance.Lognormal{Median: 1, Sigma: 1.5}, From: 6 * hour, End: 12 * hour, Sample: 20}
}

// web is a Service with 10 endpoints and a connection for each request, which takes 50 ms of work on average.
func web(nodes int) balance.Scenario {
	return balance.Scenario{Nodes: nodes, Endpoints: 10, Rate: 1000, Duration: balance.Lognormal{Median: 0.0303, Sigma: 1},
		Load: balance.Lognormal{Median: 1}, Requests: true, From: 30, End: 120, Sample: 0.25}
}

func random() balance.Policy { return balance.Policy{Name: "random", Kind: balance.Random} }
func weights() balance.Policy {
	return balance.Policy{Name: "weights as configured", Kind: balance.Weights}
}
func headStart() balance.Policy {
	return balance.Policy{Name: "head start: weight 4 for 10 min", Kind: balance.HeadStart, Boost: 4, BoostTime: 10 * minute}
}
func maxAge() balance.Policy {
	return balance.Policy{Name: "random, age at most 15 min", Kind: balance.Random, MaxAge: 15 * minute}
}
func counts(every float64, slots int) balance.Policy {
	return balance.Policy{Name: fmt.Sprintf("counts, read every %g s", every), Kind: balance.Counts, Every: every, Slots: slots, Range: 8, Smooth: 1}
}
func bounded() balance.Policy {
	p := counts(5, 64)
	p.Name += ", weights 1/2 to 2"
	p.Range = 2
	return p
}
func smoothed(every float64, slots int) balance.Policy {
	p := counts(every, slots)
	p.Name += ", smoothed"
	p.Smooth = 0.2
	return p
}
func least(every float64, slots int) balance.Policy {
	return balance.Policy{Name: fmt.Sprintf("all to the least, read every %g s", every), Kind: balance.Least, Every: every, Slots: slots, Range: 1, Smooth: 1}
}
func twoOwn() balance.Policy {
	return balance.Policy{Name: "two choices, node's counts", Kind: balance.TwoOwn}
}
func twoCluster() balance.Policy {
	return balance.Policy{Name: "two choices, cluster's counts", Kind: balance.TwoCluster}
}

func ratio(v float64) string   { return fmt.Sprintf("%.2f", v) }
func percent(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) }
func millis(v float64) string  { return fmt.Sprintf("%.0f ms", 1000*v) }
func minutes(v float64) string {
	if math.IsInf(v, 1) {
		return "not reached"
	}
	return fmt.Sprintf("%.1f min", v/minute)
}

func sessionColumns(more ...column) []column {
	return append([]column{
		{"most open", func(r balance.Result) float64 { return r.Open }, ratio},
		{"most open, worst", func(r balance.Result) float64 { return r.OpenWorst }, ratio},
		{"highest load", func(r balance.Result) float64 { return r.Load }, ratio},
		{"p99 of load", func(r balance.Result) float64 { return r.LoadP99 }, ratio},
		{"slots written/s", func(r balance.Result) float64 { return r.Written }, ratio},
	}, more...)
}

func requestColumns(more ...column) []column {
	return append([]column{
		{"most open", func(r balance.Result) float64 { return r.Open }, ratio},
		{"p99 of load", func(r balance.Result) float64 { return r.LoadP99 }, ratio},
		{"p99 of answers", func(r balance.Result) float64 { return r.Answered }, millis},
		{"slots written/s", func(r balance.Result) float64 { return r.Written }, ratio},
	}, more...)
}

var (
	settled    = column{"after 10 min", func(r balance.Result) float64 { return r.Settled }, ratio}
	rebalanced = column{"rebalanced after", func(r balance.Result) float64 { return r.Rebalanced }, minutes}
	newAtEnd   = column{"new at the end", func(r balance.Result) float64 { return r.New }, ratio}
	surge      = column{"surge", func(r balance.Result) float64 { return r.Surge }, ratio}
	failed     = column{"failed", func(r balance.Result) float64 { return r.Failed }, percent}
)

// with returns scenarios with changes.
func with(scenario func(int) balance.Scenario, change func(*balance.Scenario)) func(int) balance.Scenario {
	return func(nodes int) balance.Scenario {
		s := scenario(nodes)
		change(&s)
		return s
	}
}

func scaleUp(s *balance.Scenario) {
	s.Changes = []balance.Change{{At: s.From, Kind: balance.Add, Endpoint: 5}}
}

func rolling(s *balance.Scenario) { s.Changes = balance.Rolling(s.From, 30, s.Endpoints) }

func rollingAtOnce(s *balance.Scenario) { s.Changes = balance.RollingAtOnce(s.From, 30, s.Endpoints) }

func slow(s *balance.Scenario) { s.Slow, s.Rate = 3, 700 }

func fail(s *balance.Scenario) { s.Changes = []balance.Change{{At: s.From, Kind: balance.Fail}} }

func hang(s *balance.Scenario) { s.Changes = []balance.Change{{At: s.From, Kind: balance.Hang}} }

// lost makes 2 % of the connections end without a FIN, for 12 hours before the scale-up.
func lost(s *balance.Scenario) {
	s.Lost = 0.02
	s.From, s.End = 12*hour, 14*hour
	scaleUp(s)
}

// hours makes connections so long that half of them last for more than an hour.
func hours(s *balance.Scenario) {
	s.Duration = balance.Lognormal{Median: hour, Sigma: 1}
	s.Rate = 2
	s.From, s.End, s.Sample = 4*hour, 10*hour, 10
	scaleUp(s)
}

// many has 50 endpoints, and five more after the scale-up.
func many(s *balance.Scenario) {
	s.Endpoints = 50
	scaleUp(s)
}

// settings returns the policies by counts with other numbers of slots and ranges of weights.
func settings(limits ...float64) (all []balance.Policy) {
	for _, slots := range []int{64, 256, 1024} {
		for _, limit := range limits {
			p := counts(5, slots)
			p.Name, p.Range = fmt.Sprintf("%d slots, weights 1/%g to %g", slots, limit, limit), limit
			all = append(all, p)
		}
	}
	return all
}

// experiments returns all experiments, in the order of the page.
func experiments() []experiment {
	nodes := []int{5, 50, 500}
	long := []balance.Policy{random(), headStart(), maxAge(), twoCluster(), counts(1, 64), counts(5, 64), counts(30, 64), twoOwn()}
	brief := []balance.Policy{random(), maxAge(), twoCluster(), counts(5, 64), counts(30, 64), twoOwn()}
	short := []balance.Policy{random(), twoCluster(), counts(1, 64), counts(5, 64), counts(30, 64), smoothed(1, 64), least(5, 64), twoOwn()}
	return []experiment{
		{"websockets", "Websockets, nothing happens",
			"About 9,200 open connections to 10 endpoints, 10 new ones in a second. Half of them last for 5 minutes or less, 12 % for more than half an hour.",
			websockets, nodes, long, 3, sessionColumns()},
		{"scale-up", "Websockets, from 10 to 15 endpoints",
			"The same connections; five endpoints are added at the beginning of the two hours that are measured.",
			with(websockets, scaleUp), nodes, append(slices.Clone(long), bounded()), 3, sessionColumns(rebalanced, surge)},
		{"hours", "Connections of hours, from 10 to 15 endpoints",
			"About 11,900 open connections to 10 endpoints, 2 new ones in a second. Half of them last for more than an hour.",
			with(websockets, hours), nodes, brief, 3, sessionColumns(rebalanced, surge)},
		{"rolling", "Websockets, rolling update",
			"The same connections; every 30 s one of the 10 endpoints is replaced by a new one, and its clients connect again within 5 s.",
			with(websockets, rolling), nodes, long, 3, sessionColumns(settled, surge)},
		{"rolling-at-once", "Websockets, rolling update with maxSurge 100 %",
			"The same, but all new endpoints are ready before the first old one ends. In these five minutes there are more endpoints than needed, so that the mean is lower.",
			with(websockets, rollingAtOnce), []int{50}, []balance.Policy{random(), counts(5, 64)}, 3, sessionColumns(settled, surge)},
		{"grpc", "gRPC, rolling update",
			"About 400 connections to 10 endpoints. Half of them last for an hour or less, and their loads are very different: one in a hundred has 33 times the load of the median.",
			with(grpc, rolling), nodes, brief, 20, sessionColumns()},
		{"lost", "Websockets, from 10 to 15 endpoints, 2 % of the connections are lost",
			"As above, but in the 12 hours before the scale-up and after it 2 % of the connections have ended without a FIN, so that their entries stay (the kernel keeps them for five days, with kube-proxy's settings for one).",
			with(websockets, lost), []int{50}, []balance.Policy{random(), maxAge(), twoCluster(), counts(5, 64), twoOwn()}, 3, sessionColumns(rebalanced, newAtEnd)},
		{"web", "Short connections",
			"1,000 connections in a second to 10 endpoints, each for one request of 50 ms of work on average. An endpoint works at 8 requests in parallel and is busy for 62 % of the time.",
			web, nodes, short, 5, requestColumns()},
		{"slow", "Short connections, three endpoints with half the speed",
			"700 connections in a second, so that the three slow endpoints are busy for 88 % of the time with equal parts.",
			with(web, slow), nodes, append([]balance.Policy{weights()}, short...), 5, requestColumns()},
		{"web-fail", "Short connections, one endpoint fails at once",
			"One of the 10 endpoints accepts connections and closes them after 50 ms; clients connect again after a second. No probe finds out.",
			with(web, fail), nodes, short, 5, requestColumns(failed)},
		{"web-hang", "Short connections, one endpoint hangs",
			"One of the 10 endpoints accepts connections and does not answer; clients give up after 10 s. No probe finds out.",
			with(web, hang), nodes, short, 5, requestColumns(failed)},
		{"fail", "Websockets, one endpoint fails at once",
			"As with short connections, for two hours.", with(websockets, fail), nodes, append(slices.Clone(brief), bounded()), 3, sessionColumns(failed)},
		{"hang", "Websockets, one endpoint hangs",
			"As with short connections, for two hours.", with(websockets, hang), nodes, brief, 3, sessionColumns(failed)},
		{"settings", "Websockets, rolling update, other settings",
			"Counts read every 5 s, with other numbers of slots and bounds of the weights. All other experiments have 64 slots and weights from 1/8 to 8.",
			with(websockets, rolling), []int{50}, settings(2, 8, 32), 3, sessionColumns(settled, surge)},
		{"many", "Websockets, from 50 to 55 endpoints",
			"The same connections, counts read every 5 s. With one slot for each of 55 endpoints, 64 slots leave nine to steer with.",
			with(websockets, many), []int{50}, append([]balance.Policy{random(), twoCluster()}, settings(8)...), 3, sessionColumns(rebalanced, surge)},
	}
}
