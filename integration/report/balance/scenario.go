package balance

import (
	"math"
	"math/rand/v2"
)

// Scenario is the traffic to one Service, and what happens to its endpoints. All times are in seconds.
type Scenario struct {
	Nodes     int
	Endpoints int
	// Slow is how many of the endpoints have half the speed of the others.
	Slow int
	// Rate is the number of new connections per second in the whole cluster.
	Rate float64
	// Duration is the time that a connection stays open or, with Requests, the work that it brings.
	Duration Lognormal
	// Load is the load of a connection while it is open. Its median is 1.
	Load Lognormal
	// Requests makes connections end when their work is done. An endpoint works at Workers of them at full speed, and shares itself among
	// more. Otherwise the duration of a connection does not depend on the endpoint.
	Requests bool
	// Lost is the share of connections that end without a FIN, so that their conntrack entries stay until the end.
	Lost float64

	// Until From the scenario warms up; then it is measured until End, each Sample seconds.
	From, End, Sample float64
	Changes           []Change
}

// Workers is the number of requests that an endpoint works at in parallel.
const Workers = 8

// Open returns the mean number of open connections of a scenario without Requests.
func (s Scenario) Open() float64 { return s.Rate * s.Duration.Mean() }

// Change is something that happens to endpoints.
type Change struct {
	At   float64
	Kind ChangeKind
	// Endpoint is the number of the endpoint; with Add the number of new endpoints.
	Endpoint int
}

// ChangeKind is a kind of change.
type ChangeKind int

// The kinds of changes.
const (
	Add     ChangeKind = iota // new endpoints begin to serve
	Remove                    // the endpoint closes all its connections, and their clients connect again
	Replace                   // a new endpoint begins to serve, and then the old one is removed
	Fail                      // the endpoint accepts connections and closes them at once
	Hang                      // the endpoint accepts connections and does not answer
	Recover                   // the endpoint works again
)

// What clients do when an endpoint fails: they wait for an answer, and they connect again.
const (
	failedAfter  = 0.05 // an endpoint that fails has closed the connection
	hangingAfter = 10.0 // a client does not wait longer for an answer
	retryAfter   = 1.0
	reconnect    = 5.0 // clients whose connections are closed connect again within this time
)

// Rolling returns the changes of a rolling update, which replaces n endpoints one by one.
func Rolling(at, every float64, n int) (all []Change) {
	for i := range n {
		all = append(all, Change{At: at + float64(i)*every, Kind: Replace, Endpoint: i})
	}
	return all
}

// RollingAtOnce returns the changes of a rolling update that starts all n new endpoints before it removes the old ones one by one.
func RollingAtOnce(at, every float64, n int) []Change {
	all := []Change{{At: at, Kind: Add, Endpoint: n}}
	for i := range n {
		all = append(all, Change{At: at + float64(i)*every, Kind: Remove, Endpoint: i})
	}
	return all
}

// Lognormal is a distribution with a heavy tail. A Sigma of 0 makes it a constant.
type Lognormal struct{ Median, Sigma float64 }

// Mean returns the mean.
func (l Lognormal) Mean() float64 { return l.Median * math.Exp(l.Sigma*l.Sigma/2) }

func (l Lognormal) draw(r *rand.Rand) float64 { return l.Median * math.Exp(l.Sigma*r.NormFloat64()) }

// drawResidual draws how long a connection that is found open at an arbitrary moment stays open: it is found with a probability
// proportional to its duration, at a uniform part of it.
func (l Lognormal) drawResidual(r *rand.Rand) float64 {
	biased := Lognormal{l.Median * math.Exp(l.Sigma*l.Sigma), l.Sigma}
	return biased.draw(r) * r.Float64()
}
