package render

import (
	"cmp"
	"iter"
	"slices"

	"nfproxy/nft"
)

// slots holds the endpoints of one frontend in a map with slots: for each an element whose key is the frontend and the slot. There
// can be tens of thousands, so they are kept as one string of data, and the elements are built when they are needed.
type slots struct {
	set      *nft.Set
	frontend nft.Value
	// endpoints holds the data of slot 0, then that of slot 1, and so on: the data of an endpoint as often as it has slots.
	endpoints nft.Value
	// sorted holds the same data, each as often, in order of the addresses.
	sorted nft.Value
	// hashing is what a slot follows from. Without it endpoints keep the slots that they have; with it each slot has its endpoint.
	hashing Hashing
}

func (s slots) compare(t slots) int {
	return cmp.Or(s.set.Compare(t.set), cmp.Compare(s.frontend, t.frontend))
}

// packed is a string of data of one width.
type packed struct {
	data  nft.Value
	width int
}

func (p packed) len() int { return len(p.data) / p.width }

func (p packed) at(i int) nft.Value { return p.data[i*p.width : (i+1)*p.width] }

// pack returns endpoints as a string of data.
func pack(endpoints []Endpoint) nft.Value {
	if len(endpoints) == 0 {
		return ""
	}
	data := make([]byte, 0, len(endpoints)*len(endpointValue(endpoints[0])))
	for i := range endpoints {
		data = appendEndpoint(data, endpoints[i].AddrPort)
	}
	return nft.Value(data)
}

// join returns data as a string.
func join(all []nft.Value) nft.Value {
	var data []byte
	for _, v := range all {
		data = append(data, v...)
	}
	return nft.Value(data)
}

// values returns the data of a string.
func (p packed) values() []nft.Value {
	all := make([]nft.Value, p.len())
	for i := range all {
		all[i] = p.at(i)
	}
	return all
}

func (s slots) width() int { return dataWidth(s.set) }

// dataWidth returns the number of bytes of an endpoint in a map.
func dataWidth(m *nft.Set) int { return m.Data[0].Width() + m.Data[1].Width() }

func (s slots) bySlot() packed { return packed{s.endpoints, s.width()} }

// members yields the elements in order of their slots.
func (s slots) members() iter.Seq[nft.Member] {
	return func(yield func(nft.Member) bool) {
		p := s.bySlot()
		keys := s.keys(p.len())
		for i := range p.len() {
			if !yield(nft.Member{Set: s.set, Element: nft.Element{Key: keys.at(i), Data: p.at(i)}}) {
				return
			}
		}
	}
}

// keys returns the keys of the first slots. They share their memory.
func (s slots) keys(n int) packed {
	width := len(s.frontend) + nft.SlotNumber.Width()
	all := make([]byte, 0, n*width)
	for i := range n {
		all = append(append(all, s.frontend...), byte(i>>8), byte(i))
	}
	return packed{nft.Value(all), width}
}

// member returns the element of one slot.
func (s slots) member(slot int) nft.Member {
	return nft.Member{Set: s.set, Element: nft.Element{Key: slotKey(s.frontend, slot), Data: s.bySlot().at(slot)}}
}

// keepSlots returns the slots wanted with the endpoints in the slots that they have in the slots installed. Adding or removing an
// endpoint then changes one or two elements, whatever the number of endpoints. Free slots are filled first by endpoints whose slot
// is past the new count, in order of their slots, then by new endpoints. The result depends on nothing else. Both lists are sorted.
func keepSlots(installed, wanted []slots) []slots {
	return placed(wanted, func(w slots) nft.Value {
		if at, ok := slices.BinarySearchFunc(installed, w, slots.compare); ok {
			return installed[at].reslot(w.sorted)
		}
		return w.endpoints
	})
}

// slotsIn does the same for slots that are installed in tables.
func slotsIn(tables []*nft.Table, wanted []slots) []slots {
	return placed(wanted, func(w slots) nft.Value {
		for _, t := range tables {
			if have := t.Set(w.set.Name); t.TableID == w.set.Table && have != nil {
				return w.assign(SlotsOf(have.Elements, w.frontend))
			}
		}
		return w.endpoints
	})
}

// placed returns slots with the endpoints at other places. It returns the list itself if the places are the same.
func placed(all []slots, place func(slots) nft.Value) []slots {
	result := all
	for i, s := range all {
		if s.hashing != NoHashing {
			continue
		}
		if endpoints := place(s); endpoints != s.endpoints {
			if &result[0] == &all[0] {
				result = slices.Clone(all)
			}
			result[i].endpoints = endpoints
		}
	}
	return result
}

// reslot returns the endpoints wanted, which are sorted, in the slots that they have in s.
func (s slots) reslot(wanted nft.Value) nft.Value {
	have, want := s.bySlot(), packed{wanted, s.width()}
	gone, added := differences(packed{s.sorted, s.width()}, want)
	if len(gone)+len(added) == 0 {
		return s.endpoints
	}
	next := make([]byte, len(wanted))
	copy(next, have.data)
	leaving := make(map[nft.Value]int, len(gone)) // how many slots each endpoint loses: the last of them first
	for _, d := range gone {
		leaving[d]++
	}
	var free []int
	var moved []nft.Value // endpoints without a slot
	for i := have.len() - 1; i >= 0; i-- {
		switch d := have.at(i); {
		case leaving[d] > 0:
			leaving[d]--
			if i < want.len() {
				free = append(free, i)
			}
		case i >= want.len():
			moved = append(moved, d)
		}
	}
	slices.Reverse(free)
	slices.Reverse(moved)
	for i := have.len(); i < want.len(); i++ {
		free = append(free, i)
	}
	moved = append(moved, added...)
	for i, slot := range free {
		copy(next[slot*want.width:], moved[i])
	}
	return nft.Value(next)
}

// differences returns the data that are only in have, and those that are only in want. All are sorted. Data that both have, but one
// more often, are returned as often as it has more.
func differences(have, want packed) (gone, added []nft.Value) {
	i, j := 0, 0
	for i < have.len() && j < want.len() {
		switch h, w := have.at(i), want.at(j); {
		case h == w:
			i, j = i+1, j+1
		case h < w:
			gone, i = append(gone, h), i+1
		default:
			added, j = append(added, w), j+1
		}
	}
	for ; i < have.len(); i++ {
		gone = append(gone, have.at(i))
	}
	for ; j < want.len(); j++ {
		added = append(added, want.at(j))
	}
	return gone, added
}

// diffSlots calls record for each change of an element that turns the slots have into want. Both lists are sorted.
func diffSlots(have, want []slots, record func(nft.Op, nft.Member)) {
	for len(have)+len(want) > 0 {
		var h, w slots
		switch {
		case len(want) == 0 || len(have) > 0 && have[0].compare(want[0]) < 0:
			h, have = have[0], have[1:]
			w = slots{set: h.set, frontend: h.frontend}
		case len(have) == 0 || want[0].compare(have[0]) < 0:
			w, want = want[0], want[1:]
			h = slots{set: w.set, frontend: w.frontend}
		default:
			h, w, have, want = have[0], want[0], have[1:], want[1:]
		}
		h.diff(w, record)
	}
}

// diff calls record for each change of an element that turns s into want, the slots of the same frontend.
func (s slots) diff(want slots, record func(nft.Op, nft.Member)) {
	if s.endpoints == want.endpoints {
		return
	}
	h, w := s.bySlot(), want.bySlot()
	for i := range min(h.len(), w.len()) {
		if h.at(i) != w.at(i) {
			record(nft.Replace, want.member(i))
		}
	}
	for i := w.len(); i < h.len(); i++ {
		record(nft.Delete, s.member(i))
	}
	for i := h.len(); i < w.len(); i++ {
		record(nft.Add, want.member(i))
	}
}

// assign returns the endpoints of s in the slots that they have in installed elements. It is what reslot does, without knowledge of
// the elements: maps that another program changed can lack a slot, or have an endpoint too often.
func (s slots) assign(installed []nft.Element) nft.Value {
	wanted := packed{s.sorted, s.width()}
	pending := make(map[nft.Value]int, wanted.len()) // how many slots each endpoint lacks
	for i := range wanted.len() {
		pending[wanted.at(i)]++
	}
	bySlot := make([]nft.Value, wanted.len())
	var moved []nft.Value
	for _, e := range installed {
		if pending[e.Data] == 0 {
			continue
		}
		if slot := slotOf(nft.Member{Set: s.set, Element: e}); slot < len(bySlot) && bySlot[slot] == "" {
			bySlot[slot] = e.Data
		} else {
			moved = append(moved, e.Data)
		}
		pending[e.Data]--
	}
	for i := range wanted.len() {
		if d := wanted.at(i); pending[d] > 0 {
			pending[d]--
			moved = append(moved, d)
		}
	}
	for i := range bySlot {
		if bySlot[i] == "" {
			bySlot[i], moved = moved[0], moved[1:]
		}
	}
	return join(bySlot)
}
