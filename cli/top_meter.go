package cli

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"nfproxy/render"
	"nfproxy/report"
)

// topRow is a Service port, or one of its endpoints. Rates are per second, NaN after the first reading.
type topRow struct {
	service                       string
	kinds                         []string
	endpoint                      string // empty for the port as a whole
	connections, refused, dropped float64
	total                         uint64
}

// meter computes rates from successive readings of the counters.
type meter struct {
	byEndpoint bool
	at         time.Time
	last       map[counterKey]counterValue
}

// counterKey identifies a counter of a frontend, or of an endpoint of a frontend. An endpoint can have two: outside is the one
// for connections from outside the node.
type counterKey struct {
	service, protocol string
	frontend          netip.AddrPort
	endpoint          string
	outside           bool
}

// counterValue is the value of a counter and its meaning.
type counterValue struct {
	kind   render.Kind
	raw    uint64
	tally  report.Tally
	missed int // consecutive readings that lacked the counter
}

// maxMissed is how many consecutive readings may lack a counter before it is forgotten: while the set changes, a listing can
// lack an element that still exists.
const maxMissed = 3

// rows returns a row for each Service port in the reading, the busiest first. A counter that is new, or lower than before,
// counts from 0: its element was added again.
func (m *meter) rows(now report.Description, at time.Time) []topRow {
	counters := countersOf(now, m.byEndpoint)
	seconds := at.Sub(m.at).Seconds()
	if m.at.IsZero() {
		seconds = 0
	}
	type rowKey struct{ service, endpoint string }
	rows := make(map[rowKey]*topRow)
	for key, c := range counters {
		k := rowKey{key.service, key.endpoint}
		r := rows[k]
		if r == nil {
			r = &topRow{service: key.service, endpoint: key.endpoint}
			rows[k] = r
		}
		r.add(c, m.since(key, c), seconds)
	}
	m.remember(counters, at)
	var all []topRow
	for _, r := range rows {
		slices.Sort(r.kinds)
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b topRow) int {
		return cmp.Or(cmp.Compare(b.rate(), a.rate()), cmp.Compare(b.total, a.total),
			strings.Compare(a.service, b.service), strings.Compare(a.endpoint, b.endpoint))
	})
	return all
}

// since returns the increase since the last reading, zero for the first reading.
func (m *meter) since(key counterKey, now counterValue) report.Tally {
	before := m.last[key]
	switch {
	case m.at.IsZero():
		return report.Tally{}
	case now.raw < before.raw:
		return now.tally
	}
	was, is := before.tally, now.tally // their parts are not read at the same moment, so a part can decrease
	return report.Tally{Served: is.Served - min(is.Served, was.Served), Refused: is.Refused - min(is.Refused, was.Refused),
		Dropped: is.Dropped - min(is.Dropped, was.Dropped)}
}

// remember keeps the reading for the next call, with counters that it lacks and earlier readings had.
func (m *meter) remember(counters map[counterKey]counterValue, at time.Time) {
	for key, c := range m.last {
		if _, found := counters[key]; !found && c.missed < maxMissed {
			c.missed++
			counters[key] = c
		}
	}
	m.last, m.at = counters, at
}

func (r *topRow) add(c counterValue, since report.Tally, seconds float64) {
	if kind := string(report.OrDash(c.kind)); !slices.Contains(r.kinds, kind) {
		r.kinds = append(r.kinds, kind)
	}
	r.total += c.tally.All()
	r.connections += float64(since.Served) / seconds
	r.refused += float64(since.Refused) / seconds
	r.dropped += float64(since.Dropped) / seconds
}

// rate is the sum of all rates, by which rows are sorted.
func (r topRow) rate() float64 { return r.connections + r.refused + r.dropped }

// countersOf returns the counters of the frontends, or of their endpoints.
func countersOf(d report.Description, byEndpoint bool) map[counterKey]counterValue {
	all := make(map[counterKey]counterValue)
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			key := counterKey{service: report.PortName(s), protocol: s.Protocol, frontend: netip.AddrPortFrom(f.Address, f.Port)}
			if byEndpoint {
				countEndpoints(all, key, f)
			} else if f.Connections != nil {
				all[key] = counterValue{kind: f.Kind, raw: *f.Connections, tally: f.Tally()}
			}
		}
	}
	return all
}

// countEndpoints adds the counters of a frontend's endpoints.
func countEndpoints(all map[counterKey]counterValue, key counterKey, f report.Frontend) {
	var outside []report.Endpoint
	if f.LocalEndpoints != nil {
		outside = *f.LocalEndpoints
	}
	for i, e := range slices.Concat(f.Endpoints, outside) {
		if e.Connections != nil {
			key.endpoint, key.outside = e.String(), i >= len(f.Endpoints)
			all[key] = counterValue{kind: f.Kind, raw: *e.Connections, tally: report.Tally{Served: *e.Connections}}
		}
	}
}
