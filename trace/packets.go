package trace

// packets puts events together by packet: from the rule that marked it to the last there is of it. Packets that others
// marked are none of its business.
type packets struct {
	marker string // our marker's table
	open   map[uint32]*packet
	order  []uint32 // of open, as they began
	// early has the packets that somebody else marked before, as they came to our marker's table: the kernel shows a
	// packet in the first event of a base chain, and the rule that marks is then not the first.
	early map[uint32]Packet
}

// packet is one on its way.
type packet struct {
	events []Event
	quiet  bool // nothing was heard of it since the last call of idle
}

func newPackets(marker string) *packets {
	return &packets{marker: marker, open: make(map[uint32]*packet), early: make(map[uint32]Packet)}
}

// add takes an event and returns the packets that have ended: the event's own, or one of the same ID that was never seen
// to end. began says that the event is the first of a packet.
func (p *packets) add(e Event) (ended [][]Event, began bool) {
	p.note(e)
	if began = e.Begins(p.marker); began {
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
	if e.Ends(p.marker) {
		ended = append(ended, p.end(e.ID))
	}
	return ended, began
}

// note keeps how a packet looked when it came to our marker's table, as long as it is there: a base chain ends with its
// policy.
func (p *packets) note(e Event) {
	switch {
	case e.Family != "inet" || e.Table != p.marker:
	case e.Kind == PolicyEvent:
		delete(p.early, e.ID)
	case e.Packet.Protocol != 0:
		p.early[e.ID] = e.Packet
	}
}

// end forgets a packet and returns its events.
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

// idle ends the packets of which nothing was heard since the last call.
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

// rest ends all.
func (p *packets) rest() [][]Event { return append(p.idle(), p.idle()...) }
