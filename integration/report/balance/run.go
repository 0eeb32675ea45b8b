package balance

import (
	"math"
	"math/rand/v2"
	"slices"
)

// simulation is the state of a run.
type simulation struct {
	Scenario
	policy  Policy
	now     float64
	seq     uint64
	events  queue[event]
	traffic *rand.Rand // of arrivals: the same for all policies
	choice  *rand.Rand // of everything that depends on the policy

	endpoints   []endpoint // all that ever were
	serving     []int32    // those that serve now
	place       []int      // of each endpoint in serving; -1 if it does not serve
	nodes       []node
	connections []connection
	free        []int32 // connections that are no longer used
	result      recorder
}

// phases is in how many groups the nodes read their counts, at different times.
const phases = 10

type endpoint struct {
	speed  float64
	since  float64 // when it began to serve; 0 for the first ones
	open   int
	load   float64
	health ChangeKind // Fail, Hang, or Recover if nothing is wrong

	// With Requests, the work that every open connection has got so far, and the connections by the work at which they are done.
	work    float64
	updated float64
	queue   queue[job]
	version uint32
}

type job struct {
	done       float64
	connection int32
}

// Before reports whether the request is done before another.
func (j job) Before(k job) bool {
	return j.done < k.done || j.done == k.done && j.connection < k.connection
}

type node struct {
	number  int
	entries []int32   // conntrack entries of open connections by endpoint, with those of lost connections
	counts  []float64 // as last read; NaN for an endpoint that was not read yet
	slots   []int32
	dirty   bool
}

type connection struct {
	node, endpoint int32
	left           float64 // until its client needs it no longer; with Requests its work
	load           float64
	begun          float64
	first          float64 // when the client began to try
	version        uint32
	open           bool
}

// Run simulates a scenario with a policy.
func Run(scenario Scenario, policy Policy, seed uint64) Result {
	s := newSimulation(scenario, policy, seed)
	s.run()
	return s.result.finish(s)
}

func newSimulation(scenario Scenario, policy Policy, seed uint64) *simulation {
	s := &simulation{Scenario: scenario, policy: policy, traffic: rand.New(rand.NewPCG(seed, 1)), choice: rand.New(rand.NewPCG(seed, 2))}
	s.setUp()
	return s
}

// run handles the events until the end.
func (s *simulation) run() {
	for len(s.events) > 0 {
		e := s.events.pop()
		if e.at > s.End {
			break
		}
		s.now = e.at
		s.handle(e)
	}
}

func (s *simulation) setUp() {
	total := s.Endpoints
	for _, c := range s.Changes {
		switch c.Kind {
		case Add:
			total += c.Endpoint
		case Replace:
			total++
		}
	}
	s.nodes = make([]node, s.Nodes)
	for i := range s.nodes {
		n := &s.nodes[i]
		n.number = i
		n.entries, n.counts = make([]int32, total), make([]float64, total)
		for e := range n.counts {
			n.counts[e] = math.NaN()
		}
		if s.policy.steers() {
			n.slots = slices.Repeat([]int32{-1}, s.policy.Slots)
		}
	}
	if s.policy.steers() {
		for phase := range phases {
			s.add(event{at: s.policy.Every * float64(phase) / phases, kind: tick, ref: int32(phase)})
		}
	}
	s.place = slices.Repeat([]int{-1}, total)
	for i := range s.Endpoints {
		speed := 1.0
		if i < s.Slow {
			speed = 0.5
		}
		s.serve(speed)
	}
	s.assignAll()
	if !s.Requests {
		for range int(s.Open()) {
			s.open(s.newConnection(s.Duration.drawResidual(s.traffic)))
		}
	}
	s.add(event{kind: arrive})
	s.add(event{at: s.From, kind: sample})
	for i, c := range s.Changes {
		s.add(event{at: c.At, kind: change, ref: int32(i)})
	}
}

func (s *simulation) add(e event) {
	e.seq = s.seq
	s.seq++
	s.events.push(e)
}

func (s *simulation) handle(e event) {
	switch e.kind {
	case arrive:
		s.open(s.newConnection(s.Duration.draw(s.traffic)))
		s.add(event{at: s.now + s.traffic.ExpFloat64()/s.Rate, kind: arrive})
	case begin:
		s.open(e.ref)
	case end:
		if c := &s.connections[e.ref]; c.open && c.version == e.version {
			s.close(e.ref)
			s.again(e.ref)
		}
	case finish:
		if ep := &s.endpoints[e.ref]; ep.version == e.version {
			s.finishRequest(e.ref)
		}
	case tick:
		for i := int(e.ref); i < len(s.nodes); i += phases {
			s.read(&s.nodes[i])
		}
		s.add(event{at: s.now + s.policy.Every, kind: tick, ref: e.ref})
	case change:
		s.change(s.Changes[e.ref])
	case sample:
		s.result.sample(s)
		s.add(event{at: s.now + s.Sample, kind: sample})
	}
}

// newConnection returns the number of a connection whose client is at a random node.
func (s *simulation) newConnection(left float64) int32 {
	c := connection{node: int32(s.traffic.IntN(s.Nodes)), left: left, load: s.Load.draw(s.traffic), first: s.now}
	if len(s.free) == 0 {
		s.connections = append(s.connections, c)
		return int32(len(s.connections) - 1)
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	c.version = s.connections[i].version
	s.connections[i] = c
	return i
}

// open lets a client connect.
func (s *simulation) open(i int32) {
	c := &s.connections[i]
	n := &s.nodes[c.node]
	c.endpoint, c.open, c.begun = s.choose(n), true, s.now
	c.version++
	e := &s.endpoints[c.endpoint]
	s.result.attempt(s, c.endpoint, e.health != Recover)
	s.advance(e)
	e.open++
	e.load += c.load
	n.entries[c.endpoint]++
	n.dirty = true
	lasts := c.left
	switch {
	case e.health == Fail:
		lasts = failedAfter
	case e.health == Hang:
		lasts = hangingAfter
	case s.Requests:
		e.queue.push(job{e.work + c.left, i})
		s.schedule(c.endpoint)
		return
	case s.policy.MaxAge > 0:
		lasts = min(lasts, s.policy.MaxAge)
	}
	s.add(event{at: s.now + lasts, kind: end, ref: i, version: c.version})
}

// close closes a connection.
func (s *simulation) close(i int32) {
	c := &s.connections[i]
	e, n := &s.endpoints[c.endpoint], &s.nodes[c.node]
	s.advance(e)
	e.open--
	e.load -= c.load
	c.open = false
	if s.Lost == 0 || s.choice.Float64() >= s.Lost {
		n.entries[c.endpoint]--
		n.dirty = true
	}
}

// again lets the client of a closed connection connect again if it still needs one.
func (s *simulation) again(i int32) {
	c := &s.connections[i]
	after := 0.0
	switch health := s.endpoints[c.endpoint].health; {
	case health != Recover:
		after = retryAfter
	case !s.Requests && c.begun+c.left > s.now+1e-6: // the endpoint has closed it
		c.left -= s.now - c.begun
	default:
		s.free = append(s.free, i)
		return
	}
	s.add(event{at: s.now + after, kind: begin, ref: i})
}

// advance gives the requests of an endpoint the work that it has done since the last time.
func (s *simulation) advance(e *endpoint) {
	if n := len(e.queue); n > 0 {
		e.work += (s.now - e.updated) * e.rate(n)
	}
	e.updated = s.now
}

// rate returns the work that an endpoint does for each of n requests in a second.
func (e *endpoint) rate(n int) float64 { return e.speed * min(1, Workers/float64(n)) }

// schedule adds the event at which the next request of an endpoint is done.
func (s *simulation) schedule(i int32) {
	e := &s.endpoints[i]
	e.version++
	if len(e.queue) > 0 {
		after := max(0, (e.queue[0].done-e.work)/e.rate(len(e.queue)))
		s.add(event{at: s.now + after, kind: finish, ref: i, version: e.version})
	}
}

func (s *simulation) finishRequest(i int32) {
	e := &s.endpoints[i]
	s.advance(e)
	j := e.queue.pop()
	e.work = max(e.work, j.done)
	s.result.answered(s, s.now-s.connections[j.connection].first)
	s.close(j.connection)
	s.free = append(s.free, j.connection)
	s.schedule(i)
}

// change applies a change.
func (s *simulation) change(c Change) {
	switch c.Kind {
	case Add:
		for range c.Endpoint {
			s.serve(1)
		}
	case Remove:
		s.remove(int32(c.Endpoint))
	case Replace:
		s.serve(s.endpoints[c.Endpoint].speed)
		s.remove(int32(c.Endpoint))
	default:
		s.endpoints[c.Endpoint].health = c.Kind
	}
	s.assignAll()
}

// remove removes an endpoint, after all nodes have learned of it.
func (s *simulation) remove(old int32) {
	s.serving = slices.DeleteFunc(s.serving, func(e int32) bool { return e == old })
	s.place[old] = -1
	for i, e := range s.serving {
		s.place[e] = i
	}
	s.assignAll()
	for i := range s.connections {
		if c := &s.connections[i]; c.open && c.endpoint == old {
			s.close(int32(i))
			c.left = max(c.left-(s.now-c.begun), 1e-3)
			s.add(event{at: s.now + reconnect*s.choice.Float64(), kind: begin, ref: int32(i)})
		}
	}
}

// serve adds an endpoint.
func (s *simulation) serve(speed float64) {
	s.place[len(s.endpoints)] = len(s.serving)
	s.serving = append(s.serving, int32(len(s.endpoints)))
	s.endpoints = append(s.endpoints, endpoint{speed: speed, since: s.now, health: Recover})
}

// assignAll assigns the slots of all nodes after a change of endpoints, which every node learns at once.
func (s *simulation) assignAll() {
	if !s.policy.steers() {
		return
	}
	for i := range s.nodes {
		s.nodes[i].dirty = true
		s.assign(&s.nodes[i])
	}
}
