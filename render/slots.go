package render

import (
	"slices"

	"nfproxy/nft"
)

// keepSlots returns the fragment wanted with its endpoints in the slots that they have in the fragment installed. Adding or
// removing an endpoint then changes one or two elements, whatever the number of endpoints. Free slots are filled first by
// endpoints whose slot is past the new count, in order of their slots, then by new endpoints. The result depends on nothing
// else.
func keepSlots(installed, wanted nft.Fragment) nft.Fragment {
	if len(installed) == 0 {
		return wanted
	}
	result := wanted
	for i := 0; i < len(wanted); {
		n := groupLen(wanted[i:])
		if hasSlots(wanted[i].Set) {
			group := reslot(groupOf(installed, wanted[i]), wanted[i:i+n])
			if !slices.Equal(group, wanted[i:i+n]) {
				if &result[0] == &wanted[0] {
					result = slices.Clone(wanted)
				}
				copy(result[i:], group)
			}
		}
		i += n
	}
	return result
}

// groupLen returns the number of members at the start that are slots of the same frontend; 1 if the first is no slot.
func groupLen(f nft.Fragment) int {
	if !hasSlots(f[0].Set) {
		return 1
	}
	n := 1
	for n < len(f) && f[n].Set == f[0].Set && frontendOf(f[n]) == frontendOf(f[0]) {
		n++
	}
	return n
}

// groupOf returns the slots in f of the frontend that m belongs to.
func groupOf(f nft.Fragment, m nft.Member) nft.Fragment {
	first := slices.IndexFunc(f, func(o nft.Member) bool { return o.Set == m.Set && frontendOf(o) == frontendOf(m) })
	if first < 0 {
		return nil
	}
	return f[first : first+groupLen(f[first:])]
}

// reslot returns the endpoints of one frontend, wanted, in the slots that they have in installed.
func reslot(installed, wanted nft.Fragment) nft.Fragment {
	pending := make(map[nft.Value]bool, len(wanted)) // endpoints without a slot
	for _, w := range wanted {
		pending[w.Data] = true
	}
	slots := make([]nft.Value, len(wanted))
	var moved []nft.Value
	for _, have := range installed {
		if !pending[have.Data] {
			continue
		}
		slot := slotOf(have)
		if slot < len(slots) && slots[slot] == "" { // maps that another program made can have a slot twice
			slots[slot] = have.Data
		} else {
			moved = append(moved, have.Data)
		}
		delete(pending, have.Data)
	}
	for _, w := range wanted {
		if pending[w.Data] {
			moved = append(moved, w.Data)
		}
	}
	group := slices.Clone(wanted)
	for i := range group {
		if slots[i] == "" {
			slots[i], moved = moved[0], moved[1:]
		}
		group[i].Data = slots[i]
	}
	return group
}

// slotsIn returns the slots of the frontends of a fragment in tables.
func slotsIn(tables []*nft.Table, f nft.Fragment) nft.Fragment {
	var found nft.Fragment
	for _, m := range f {
		if !hasSlots(m.Set) || slotOf(m) != 0 {
			continue // once per frontend
		}
		for _, t := range tables {
			have := t.Set(m.Set.Name)
			if t.TableID != m.Set.Table || have == nil {
				continue
			}
			for _, e := range SlotsOf(have.Elements, frontendOf(m)) {
				found = append(found, nft.Member{Set: m.Set, Element: e})
			}
		}
	}
	return found
}
