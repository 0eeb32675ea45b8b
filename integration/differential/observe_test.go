package differential

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// question is a target as seen from a place.
type question struct {
	target *target
	place  string
}

func (q question) String() string {
	text := fmt.Sprintf("%s/%s from %s: %s", q.target.to, strings.ToLower(string(q.target.protocol)), q.place, q.target.what)
	if len(q.target.services) > 0 {
		text += " of " + strings.Join(q.target.services, ", ")
	}
	return text
}

// outcomes is what the probes of one question experienced, each outcome once.
type outcomes map[string]bool

func (o outcomes) String() string { return strings.Join(slices.Sorted(maps.Keys(o)), ", ") }

// answered reports whether a server answered a probe.
func (o outcomes) answered() bool {
	for text := range o {
		if !isOutcome(text) {
			return true
		}
	}
	return false
}

// has reports whether a server is among the outcomes, whatever source it sees.
func (o outcomes) has(server string) bool {
	for text := range o {
		if endpointOf(text) == server {
			return true
		}
	}
	return false
}

// effort is how thoroughly questions are answered.
type effort struct {
	attempts int           // probes for a question that servers answer
	fresh    bool          // clients with session affinity are ones that no Service has seen before
	timeout  time.Duration // until a probe counts as dropped; on an idle machine answers take a millisecond
}

// observation is what a round of probes found.
type observation struct {
	outcomes map[question]outcomes
	arrivals map[question][]arrival // at targets that hash
	moves    []move
}

func newObservation() observation {
	return observation{outcomes: make(map[question]outcomes), arrivals: make(map[question][]arrival)}
}

// move is a connection of a client that has session affinity and that was at another endpoint before.
type move struct {
	question question
	client   netip.Addr
	from, to string        // endpoints
	by       *target       // of the client's last connection
	back     bool          // to an endpoint that it had before
	after    time.Duration // since the client's last connection to the Service's port
}

// clientKey is a client of a Service's port with session affinity.
type clientKey struct {
	place  string
	source netip.Addr
	port   string
}

// visit is the last connection of a client.
type visit struct {
	endpoint string
	by       *target
	at       time.Time
	all      []string // endpoints that the client has had
}

// observer sends the probes of one place of one node, and remembers at which endpoint each client with session affinity is.
type observer struct {
	*place
	clients map[clientKey]visit
}

// newObservers returns an observer for each place of a node.
func newObservers(n *node) []*observer {
	var all []*observer
	for _, p := range n.places {
		all = append(all, &observer{place: p, clients: make(map[clientKey]visit)})
	}
	return all
}

// observe answers the questions of all observers at the same time.
func observe(observers []*observer, questions []question, e effort) (observation, error) {
	all := newObservation()
	var mu sync.Mutex
	var failed error
	var running sync.WaitGroup
	for _, o := range observers {
		running.Go(func() {
			found := newObservation()
			err := o.observe(slices.DeleteFunc(slices.Clone(questions), func(q question) bool { return q.place != o.name }), e, &found)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = fmt.Errorf("%s: %w", o.name, err)
			}
			maps.Copy(all.outcomes, found.outcomes)
			maps.Copy(all.arrivals, found.arrivals)
			all.moves = append(all.moves, found.moves...)
		})
	}
	running.Wait()
	return all, failed
}

// observe sends one probe for each question, and more if a server answers it: at once without session affinity, and one question of
// a Service's port after the other with it, because the order of a client's connections matters. In a repetition it sends all
// probes without session affinity at once.
func (o *observer) observe(questions []question, e effort, into *observation) error {
	one := func(question) []netip.Addr { return make([]netip.Addr, 1) }
	most := func(q question) []netip.Addr { return make([]netip.Addr, e.attempts) }
	first := one
	if e.fresh {
		first = most
	}
	if err := o.send(questions, first, e, into); err != nil {
		return err
	}
	var unanswered, more []question
	passes := make(map[string][]question) // by the Service's port
	for _, q := range questions {
		switch {
		case !into.outcomes[q].answered():
			unanswered = append(unanswered, q)
		case q.target.affinity > 0:
			passes[q.target.port] = append(passes[q.target.port], q)
		default:
			more = append(more, q)
		}
	}
	if !e.fresh {
		if err := o.send(append(more, unanswered...), func(q question) []netip.Addr {
			if into.outcomes[q].answered() || q.target.affinity > 0 {
				return most(q)
			}
			return one(q)
		}, e, into); err != nil {
			return err
		}
		for _, q := range unanswered {
			if into.outcomes[q].answered() && q.target.affinity > 0 {
				passes[q.target.port] = append(passes[q.target.port], q)
			}
		}
	}
	return o.observeClients(passes, e, into)
}

// observeClients sends the probes of clients with session affinity, twice for each question, if the place has many clients.
func (o *observer) observeClients(passes map[string][]question, e effort, into *observation) error {
	clients := [2][]netip.Addr{o.sources[0].clients(e), o.sources[1].clients(e)}
	if len(clients[0]) == 0 {
		return nil
	}
	for i := 0; ; i++ {
		var pass []question
		for _, port := range slices.Sorted(maps.Keys(passes)) {
			if i < 2*len(passes[port]) {
				pass = append(pass, passes[port][i/2])
			}
		}
		if len(pass) == 0 {
			return nil
		}
		if err := o.send(pass, func(q question) []netip.Addr { return clients[index(q.target.to.Addr())] }, e, into); err != nil {
			return err
		}
	}
}

// clients returns the addresses of clients with session affinity, none without a pool.
func (s *sources) clients(e effort) []netip.Addr {
	if !s.pool.IsValid() {
		return nil
	}
	if e.fresh {
		s.used = (s.used + e.attempts) % (scouts / 2)
	}
	all := make([]netip.Addr, e.attempts)
	for i := range all {
		all[i] = s.client(s.used + i)
	}
	return all
}

// scouts is the first of the addresses of a pool that find out who answers, before the clients whose order of connections matters.
const scouts = 3600

// client returns an address of the pool, or the only address.
func (s *sources) client(i int) netip.Addr {
	if !s.pool.IsValid() {
		return s.addr
	}
	i = (i + 2) % 4000 // without the first ones, which are special
	b := s.pool.Addr().AsSlice()
	b[len(b)-2] += byte(i >> 8)
	b[len(b)-1] = byte(i)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// send sends probes for each question, from the clients that sources returns or, for the zero address, from a source that is no
// client.
func (o *observer) send(questions []question, sources func(question) []netip.Addr, e effort, into *observation) error {
	var probes []*probe
	var of []question
	for _, q := range questions {
		own := &o.sources[index(q.target.to.Addr())]
		scout := scouts
		for _, a := range sources(q) {
			p := &probe{protocol: q.target.protocol, source: a, target: q.target.to, client: a.IsValid()}
			if !a.IsValid() {
				p.source = own.client(scout)
				scout++
			}
			probes, of = append(probes, p), append(of, q)
		}
	}
	if err := o.sendAll(probes, e); err != nil {
		return err
	}
	if e.fresh {
		if err := o.sendAgain(probes, of, e); err != nil {
			return err
		}
	}
	for i, p := range probes {
		o.record(of[i], p, into)
	}
	return nil
}

// sendAll sends probes in batches.
func (o *observer) sendAll(probes []*probe, e effort) error {
	const batch = 1000
	for i := 0; i < len(probes); i += batch {
		if err := send(o.ns, probes[i:min(i+batch, len(probes))], e.timeout); err != nil {
			return err
		}
	}
	return nil
}

// sendAgain repeats each probe that was dropped, once, if servers answered others of its question: on a busy machine a packet is
// lost now and then.
func (o *observer) sendAgain(probes []*probe, of []question, e effort) error {
	answered := make(map[question]bool)
	for i, p := range probes {
		answered[of[i]] = answered[of[i]] || !isOutcome(p.result)
	}
	var again []*probe
	for i, p := range probes {
		if p.result == dropped && answered[of[i]] {
			p.result = ""
			again = append(again, p)
		}
	}
	return o.sendAll(again, e)
}

// record adds the result of a probe to the observation.
func (o *observer) record(q question, p *probe, into *observation) {
	text := p.summary()
	if into.outcomes[q] == nil {
		into.outcomes[q] = make(outcomes)
	}
	endpoint, _, answered := strings.Cut(p.result, " ")
	if q.target.hash != "" && answered {
		into.arrivals[q] = append(into.arrivals[q], arrival{p.local, endpoint})
	}
	if q.target.affinity > 0 && !o.sources[index(q.target.to.Addr())].pool.IsValid() && (answered || o.serves && text == dropped) {
		text = "an endpoint" // one client is at one of the endpoints, perhaps at itself, which cannot answer
	}
	into.outcomes[q][text] = true
	if !p.client {
		return
	}
	key := clientKey{o.name, p.source, q.target.port}
	last, known := o.clients[key]
	if answered {
		o.clients[key] = visit{endpoint, q.target, time.Now(), append(last.all, endpoint)}
	} else {
		delete(o.clients, key)
	}
	if known && answered && last.endpoint != endpoint {
		into.moves = append(into.moves, move{q, p.source, last.endpoint, endpoint, last.by, slices.Contains(last.all, endpoint), time.Since(last.at)})
	}
}
