package report

import (
	"nfproxy/nft"
	"nfproxy/render"
)

// Tally is a number of connections, by outcome. OverLimit are those of Refused and Dropped that exceeded a limit of the Service.
type Tally struct{ Served, Refused, Dropped, OverLimit uint64 }

// Tally returns the frontend's connections, the zero Tally if they are not counted.
func (f Frontend) Tally() Tally {
	if f.Connections == nil {
		return Tally{}
	}
	var t Tally
	if f.Dropped != nil {
		t.Dropped = min(*f.Connections, *f.Dropped)
	}
	t.OverLimit = min(*f.Connections-t.Dropped, f.Limits.exceeded())
	rest := *f.Connections - t.Dropped - t.OverLimit
	if t.OverLimit > 0 && f.Limits.Over == "drop" {
		t.Dropped += t.OverLimit
	} else {
		t.Refused = t.OverLimit
	}
	switch f.Action {
	case "refuse":
		t.Refused += rest
	case "drop":
		t.Dropped += rest
	default:
		t.Served = rest
	}
	return t
}

// Plus returns the sum of two tallies.
func (t Tally) Plus(u Tally) Tally {
	return Tally{t.Served + u.Served, t.Refused + u.Refused, t.Dropped + u.Dropped, t.OverLimit + u.OverLimit}
}

// All returns the number of connections with any outcome.
func (t Tally) All() uint64 { return t.Served + t.Refused + t.Dropped }

// CountedIn reports whose connections the tables count.
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
