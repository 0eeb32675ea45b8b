package balance

import "math/rand/v2"

// Policy is how a node chooses the endpoint of a connection.
type Policy struct {
	Name string
	Kind PolicyKind

	// Every is the time between two reads of the counts, with Counts and Least. Each node has a phase of its own.
	Every float64
	// Slots is the number of slots that a frontend has, with Counts and Least. It is not less than the number of endpoints.
	Slots int
	// Range bounds the weights of Counts: no endpoint gets more than Range times, or less than a part in Range, of what it would get at
	// the mean count.
	Range float64
	// Smooth is the weight of a new count against those before it, with Counts. 1 uses the last count alone.
	Smooth float64

	// Boost is the weight of an endpoint in its first BoostTime seconds, with HeadStart.
	Boost, BoostTime float64
	// MaxAge, if not 0, is the age at which the endpoints close a connection; its client connects again at once.
	MaxAge float64
}

// PolicyKind is a kind of policy.
type PolicyKind int

// The kinds of policies.
const (
	Random     PolicyKind = iota // uniform
	Weights                      // in proportion to the speeds, which are configured
	HeadStart                    // new endpoints have a larger weight for some time
	Counts                       // slots by the node's own counts
	Least                        // all slots to the endpoint for which the node has the lowest count
	TwoOwn                       // of two random endpoints the one for which the node has the fewer connections at this moment
	TwoCluster                   // of two random endpoints the one with the fewer connections in the cluster at this moment
)

func (p Policy) steers() bool { return p.Kind == Counts || p.Kind == Least }

// choose returns the endpoint of a new connection that passes a node.
func (s *simulation) choose(n *node) int32 {
	switch s.policy.Kind {
	case Counts, Least:
		return n.slots[s.choice.IntN(len(n.slots))]
	case Weights:
		return s.draw(func(e *endpoint) float64 { return e.speed })
	case HeadStart:
		return s.draw(func(e *endpoint) float64 {
			if e.since > 0 && s.now < e.since+s.policy.BoostTime {
				return s.policy.Boost
			}
			return 1
		})
	case TwoOwn:
		a, b := s.twoEndpoints()
		if n.entries[b] < n.entries[a] {
			return b
		}
		return a
	case TwoCluster:
		a, b := s.twoEndpoints()
		if s.endpoints[b].open < s.endpoints[a].open {
			return b
		}
		return a
	}
	return s.serving[s.choice.IntN(len(s.serving))]
}

// draw draws an endpoint by weights.
func (s *simulation) draw(weight func(*endpoint) float64) int32 {
	sum := 0.0
	for _, e := range s.serving {
		sum += weight(&s.endpoints[e])
	}
	at := s.choice.Float64() * sum
	for _, e := range s.serving {
		if at -= weight(&s.endpoints[e]); at < 0 {
			return e
		}
	}
	return s.serving[len(s.serving)-1]
}

func (s *simulation) twoEndpoints() (a, b int32) {
	i, j := two(s.choice, len(s.serving))
	return s.serving[i], s.serving[j]
}

// two draws two different numbers below n, or one twice if n is 1.
func two(r *rand.Rand, n int) (i, j int) {
	i = r.IntN(n)
	if n == 1 {
		return i, i
	}
	return i, (i + 1 + r.IntN(n-1)) % n
}
