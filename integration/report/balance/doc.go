// Package balance simulates how the connections to one Service spread over its endpoints, when each node chooses the endpoints of the
// connections that pass it and sees only its own connections.
//
// A Scenario (scenario.go) is the traffic and what happens to the endpoints; a Policy (policy.go) is how a node chooses. Run (run.go)
// simulates the events in order of their times and returns a Result (measure.go). Steering by counts is in steer.go. The same scenario,
// policy and seed result in the same numbers, and all policies see the same arrivals.
package balance
