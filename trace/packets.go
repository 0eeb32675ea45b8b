package trace

// packets groups trace events by packet, from the event with which the tracer switches tracing on to the packet's last. It
// ignores packets that only other programs trace.
type packets struct {
	tracer string // the name of the tracer's table
	open   map[uint32]*packet
	order  []uint32 // the IDs in open, in the order in which the packets began
	// early holds packets that another program traced before they came to the tracer's table. The kernel reports a
	// packet's header in the first event of a base chain, and for these that event precedes the tracer's rule.
	early map[uint32]Packet
}

// packet is a packet that has not ended yet.
type packet struct {
	events []Event
	quiet  bool // no event since the last call of idle
}

func newPackets(tracer string) *packets {
	return &packets{tracer: tracer, open: make(map[uint32]*packet), early: make(map[uint32]Packet)}
}

// add takes an event and returns the packets that have ended: the packet of the event, or an earlier packet with the same
// ID whose end was not seen. began reports whether the event is the first of a packet.
func (p *packets) add(e Event) (ended [][]Event, began bool) {
	p.noteEarly(e)
	if began = e.Begins(p.tracer); began {
		e.Packet = p.early[e.ID]
		delete(p.early, e.ID)
		if old := p.open[e.ID]; old != nil {
			ended = append(ended, p.end(e.ID))
		}
		p.open[e.ID], p.order = &packet{}, append(p.order, e.ID)
	}
	known := p.open[e.ID]
	if known == nil {
		return ended, began
	}
	known.events, known.quiet = append(known.events, e), false
	delete(p.early, e.ID)
	if e.Ends(p.tracer) {
		ended = append(ended, p.end(e.ID))
	}
	return ended, began
}

// noteEarly keeps the header of a packet while the packet is in the tracer's table: the event of the base chain's policy
// is the last there.
func (p *packets) noteEarly(e Event) {
	switch {
	case e.Family != "inet" || e.Table != p.tracer:
	case e.Kind == PolicyEvent:
		delete(p.early, e.ID)
	case e.Packet.Protocol != 0:
		p.early[e.ID] = e.Packet
	}
}

// end removes a packet and returns its events.
func (p *packets) end(id uint32) []Event {
	events := p.open[id].events
	delete(p.open, id)
	for i, other := range p.order {
		if other == id {
			p.order = append(p.order[:i], p.order[i+1:]...)
			break
		}
	}
	return events
}

// idle ends the packets that had no event since the last call.
func (p *packets) idle() (ended [][]Event) {
	for _, id := range append([]uint32(nil), p.order...) {
		if p.open[id].quiet {
			ended = append(ended, p.end(id))
		} else {
			p.open[id].quiet = true
		}
	}
	return ended
}

// rest ends all packets.
func (p *packets) rest() [][]Event { return append(p.idle(), p.idle()...) }
