package report

import (
	"nfproxy/nft"
	"nfproxy/render"
)

// Tally is how many connections there were, by what became of them.
type Tally struct{ Served, Refused, Dropped uint64 }

// Tally is what a frontend counted; nothing if it does not count.
func (f Frontend) Tally() Tally {
	if f.Connections == nil {
		return Tally{}
	}
	var t Tally
	if f.Dropped != nil {
		t.Dropped = min(*f.Connections, *f.Dropped)
	}
	rest := *f.Connections - t.Dropped
	switch f.Action {
	case "refuse":
		t.Refused = rest
	case "drop":
		t.Dropped += rest
	default:
		t.Served = rest
	}
	return t
}

// Plus adds another tally.
func (t Tally) Plus(u Tally) Tally {
	return Tally{t.Served + u.Served, t.Refused + u.Refused, t.Dropped + u.Dropped}
}

// All are the connections whatever became of them.
func (t Tally) All() uint64 { return t.Served + t.Refused + t.Dropped }

// CountedIn says whose connections are counted in tables, as they are in a kernel.
func CountedIn(tables []*nft.Table) render.Counters {
	by := render.CountNothing
	for _, t := range tables {
		sc := render.SchemaOf(t.Family)
		if s := t.Set(sc.Endpoints.Name); s != nil && s.Counter {
			return render.CountEndpoints
		}
		if s := t.Set(sc.Services.Name); s != nil && s.Counter {
			by = render.CountServices
		}
	}
	return by
}
