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

// Request says what to follow.
type Request struct {
	To Target
	// From, if valid, is where the packets come from.
	From netip.Prefix
	// Count is how many packets are followed at most, Timeout for how long.
	Count   int
	Timeout time.Duration
}

// Follower marks packets and listens to what the kernel tells of them.
type Follower struct {
	// To are the destinations whose packets are marked.
	To      []Destination
	request Request
	kernel  *kernel.Conn
	traces  *Listener
	tracer  *Tracer
	names   map[Destination]string
	rules   *rulebook
}

// Result is what a Follower has to say at the end.
type Result struct {
	// Seen is how many packets were marked.
	Seen int
	// Missed says that the kernel told more than could be read, so that there may have been others.
	Missed bool
}

// Open marks packets from now on, in the calling thread's network namespace. The tables must be there. Close ends it.
func Open(r Request) (f *Follower, err error) {
	f = &Follower{request: r}
	if f.kernel, err = kernel.Open(); err != nil {
		return nil, err
	}
	if err := f.open(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// open reads what there is, listens, and then marks.
func (f *Follower) open() error {
	tables, _, err := f.kernel.Read(render.TableIDs()...)
	if err != nil {
		return err
	}
	if len(tables) == 0 {
		return errors.New("there are no tables of nfproxy in this network namespace")
	}
	description := report.Describe(tables)
	f.names, f.rules = serviceNames(description), newRulebook(f.kernel)
	if f.To, err = f.request.To.Destinations(description); err != nil {
		return err
	}
	if err := check(f.request.From, f.To); err != nil {
		return err
	}
	if f.traces, err = Listen(); err != nil {
		return err
	}
	f.tracer, err = StartTracer(Tracing{To: f.To, From: f.request.From, Count: uint32(f.request.Count),
		Timeout: f.request.Timeout})
	return err
}

// Close ends the marking: its table is gone.
func (f *Follower) Close() error {
	var errs []error
	if f.tracer != nil {
		errs = append(errs, f.tracer.Close())
	}
	if f.traces != nil {
		errs = append(errs, f.traces.Close())
	}
	return errors.Join(append(errs, f.kernel.Close())...)
}

// patience is how often packets are given up of which nothing was heard meanwhile. A packet's way takes microseconds,
// unless a program has it in a queue.
const patience = 500 * time.Millisecond

// heard is what Next returned.
type heard struct {
	event Event
	err   error
}

// Run calls each for every packet, when its way has ended, until there were Count, the Timeout is over or ctx ends. Run
// and Close are called once.
func (f *Follower) Run(ctx context.Context, each func(PacketTrace) error) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, f.request.Timeout)
	defer cancel()
	events := make(chan heard)
	go f.listen(ctx, events)
	tick := time.NewTicker(patience)
	defer tick.Stop()
	var result Result
	packets, told := newPackets(f.tracer.Table()), 0
	for told < f.request.Count {
		var ended [][]Event
		over := false
		select {
		case <-ctx.Done():
			ended, over = packets.rest(), true
		case <-tick.C:
			ended = packets.idle()
		case h := <-events:
			if h.err != nil && !errors.Is(h.err, ErrMissed) {
				return result, h.err
			}
			if h.err != nil {
				result.Missed = true
				continue
			}
			var began bool
			if ended, began = packets.add(h.event); began {
				result.Seen++
			}
		}
		for _, packet := range ended {
			if err := f.tell(packet, each); err != nil {
				return result, err
			}
			told++
		}
		if over {
			break
		}
	}
	return result, nil
}

// listen sends what is heard until ctx ends; then it ends with the next event, or with Close.
func (f *Follower) listen(ctx context.Context, events chan<- heard) {
	for {
		e, err := f.traces.Next()
		select {
		case events <- heard{e, err}:
		case <-ctx.Done():
			return
		}
		if err != nil && !errors.Is(err, ErrMissed) {
			return
		}
	}
}

func (f *Follower) tell(events []Event, each func(PacketTrace) error) error {
	if err := f.rules.refresh(); err != nil {
		return err
	}
	j := tell(events, f.tracer.Table(), f.rules.rule)
	if p, err := nft.ParseProtocol(j.Protocol); err == nil {
		j.Service = f.names[Destination{Protocol: p, AddrPort: j.Destination}]
	}
	return each(j)
}

// rulebook knows the rules of our tables by their handles, those too that were there earlier.
type rulebook struct {
	kernel     *kernel.Conn
	generation uint32
	rules      map[nft.TableID]map[uint64]nft.Rule
}

func newRulebook(k *kernel.Conn) *rulebook {
	return &rulebook{kernel: k, rules: make(map[nft.TableID]map[uint64]nft.Rule)}
}

// refresh reads the rules if anything has changed since the last time.
func (b *rulebook) refresh() error {
	generation, err := b.kernel.Generation()
	if err != nil || generation == b.generation {
		return err
	}
	for _, t := range render.TableIDs() {
		rules, err := b.kernel.Rules(t)
		if err != nil {
			return fmt.Errorf("rules by their handles: %w", err)
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
func (b *rulebook) rule(e Event) (nft.Rule, bool) {
	for t, rules := range b.rules {
		if e.Is(t) && e.Kind == RuleEvent {
			r, ok := rules[e.Rule]
			return r, ok
		}
	}
	return nft.Rule{}, false
}
