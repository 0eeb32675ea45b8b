package trace

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/report"
)

// Request is what a Session traces.
type Request struct {
	// Instance is the nfproxy whose Services To names.
	Instance render.Instance
	// To is a Service or an address and port.
	To report.Target
	// From, if valid, is the prefix that the packets' sources are in.
	From netip.Prefix
	// Count is the largest number of packets to trace, 1 to MaxTraced.
	Count int
	// Timeout is when tracing ends at the latest.
	Timeout time.Duration
}

// Session traces packets from Open to Close.
type Session struct {
	// To are the destinations whose packets are traced.
	To       []Destination
	request  Request
	kernel   *kernel.Conn
	listener *Listener
	tracer   *Tracer
	services map[Destination]string // names of Service ports
	rules    *ruleReader
}

// Result is the summary of a Session.
type Result struct {
	// Seen is the number of packets that the kernel began to trace.
	Seen int
	// Missed reports that the kernel sent more events than could be read, so packets or steps may be missing.
	Missed bool
}

// Open begins to trace in the calling thread's network namespace, in which nfproxy's tables must exist. Close ends it.
func Open(r Request) (s *Session, err error) {
	s = &Session{request: r}
	if s.kernel, err = kernel.Open(); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open listens before it starts the tracer, so that no event is missed.
func (s *Session) open() error {
	tables, _, err := s.kernel.Read(s.request.Instance.TableIDs()...)
	if err != nil {
		return err
	}
	if len(tables) == 0 {
		return report.NoTablesError(s.request.Instance)
	}
	description := report.Describe(tables)
	s.services, s.rules = serviceNames(description), newRuleReader(s.kernel)
	frontends, err := s.request.To.Frontends(description)
	if err != nil {
		return err
	}
	for _, f := range frontends {
		s.To = append(s.To, Destination(f))
	}
	if err := checkFamilies(s.request.From, s.To); err != nil {
		return err
	}
	if s.listener, err = Listen(); err != nil {
		return err
	}
	s.tracer, err = StartTracer(Tracing{To: s.To, From: s.request.From, Count: uint32(s.request.Count),
		Timeout: s.request.Timeout})
	return err
}

// checkFamilies returns an error if no packet from the sources can go to the destinations.
func checkFamilies(from netip.Prefix, to []Destination) error {
	for _, d := range to {
		if !from.IsValid() || from.Addr().Is4() == d.Addr().Is4() {
			return nil
		}
	}
	return fmt.Errorf("source %s and destination %s have different address families", from, to[0])
}

// Close ends tracing and removes the tracer's table.
func (s *Session) Close() error {
	var errs []error
	if s.tracer != nil {
		errs = append(errs, s.tracer.Close())
	}
	if s.listener != nil {
		errs = append(errs, s.listener.Close())
	}
	return errors.Join(append(errs, s.kernel.Close())...)
}

// idleInterval is how often packets without a new event are given up. A packet passes the chains within microseconds,
// unless a program holds it in a queue.
const idleInterval = 500 * time.Millisecond

// received is a result of Listener.Next.
type received struct {
	event Event
	err   error
}

// Run calls each for every packet as soon as its trace has ended, until there were Count packets, the Timeout is over or
// ctx is done. Run and Close are called once.
func (s *Session) Run(ctx context.Context, each func(PacketTrace) error) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.request.Timeout)
	defer cancel()
	events := make(chan received)
	go s.receive(ctx, events)
	tick := time.NewTicker(idleInterval)
	defer tick.Stop()
	var result Result
	packets, reported := newPackets(s.tracer.Table()), 0
	for reported < s.request.Count {
		var ended [][]Event
		over := false
		select {
		case <-ctx.Done():
			ended, over = packets.rest(), true
		case <-tick.C:
			ended = packets.idle()
		case r := <-events:
			if r.err != nil && !errors.Is(r.err, ErrMissed) {
				return result, r.err
			}
			if r.err != nil {
				result.Missed = true
				continue
			}
			var began bool
			if ended, began = packets.add(r.event); began {
				result.Seen++
			}
		}
		for _, packet := range ended {
			if err := s.report(packet, each); err != nil {
				return result, err
			}
			reported++
		}
		if over {
			break
		}
	}
	return result, nil
}

// receive sends trace events until ctx is done and one more event came, or until Close.
func (s *Session) receive(ctx context.Context, events chan<- received) {
	for {
		e, err := s.listener.Next()
		select {
		case events <- received{e, err}:
		case <-ctx.Done():
			return
		}
		if err != nil && !errors.Is(err, ErrMissed) {
			return
		}
	}
}

// report calls each with the packet trace of one packet's events.
func (s *Session) report(events []Event, each func(PacketTrace) error) error {
	if err := s.rules.refresh(); err != nil {
		return err
	}
	p := newPacketTrace(events, s.tracer.Table(), s.rules.rule)
	if protocol, err := nft.ParseProtocol(p.Protocol); err == nil {
		p.Service = s.services[Destination{Protocol: protocol, AddrPort: p.Destination}]
	}
	return each(p)
}

// serviceNames maps frontends to the names of their Service ports, "namespace/name:port".
func serviceNames(d report.Description) map[Destination]string {
	names := make(map[Destination]string)
	for _, s := range d.Services {
		p, _ := nft.ParseProtocol(s.Protocol) // the tables have no other protocols
		for _, f := range s.Frontends {
			names[Destination{Protocol: p, AddrPort: netip.AddrPortFrom(f.Address, f.Port)}] = report.PortName(s)
		}
	}
	return names
}

// ruleReader maps handles to rules of the tables of all instances of nfproxy, including rules deleted since it first read them.
type ruleReader struct {
	kernel     *kernel.Conn
	generation uint32
	rules      map[nft.TableID]map[uint64]nft.Rule
}

func newRuleReader(k *kernel.Conn) *ruleReader {
	return &ruleReader{kernel: k, rules: make(map[nft.TableID]map[uint64]nft.Rule)}
}

// refresh reads the rules if the ruleset's generation has changed since the last call.
func (b *ruleReader) refresh() error {
	generation, err := b.kernel.Generation()
	if err != nil || generation == b.generation {
		return err
	}
	tables, err := b.kernel.TableOwners()
	if err != nil {
		return err
	}
	for t := range tables {
		if _, err := render.InstanceOf(t.Name); err != nil {
			continue
		}
		rules, err := b.kernel.Rules(t)
		if err != nil {
			return fmt.Errorf("read the rules of table %s: %w", t, err)
		}
		if b.rules[t] == nil {
			b.rules[t] = make(map[uint64]nft.Rule)
		}
		for handle, r := range rules {
			b.rules[t][handle] = r
		}
	}
	b.generation = generation
	return nil
}

// rule is a ruleOf.
func (b *ruleReader) rule(e Event) (nft.Rule, bool) {
	for t, rules := range b.rules {
		if e.Is(t) && e.Kind == RuleEvent {
			r, ok := rules[e.Rule]
			return r, ok
		}
	}
	return nft.Rule{}, false
}
