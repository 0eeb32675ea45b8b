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

// topRow is one Service port, or one endpoint of it. Rates are per second, NaN as long as there is one reading.
type topRow struct {
	service                       string
	kinds                         []string
	endpoint                      string // empty for the port as a whole
	connections, refused, dropped float64
	total                         uint64
}

// meter turns what the kernel counted at moments into rates.
type meter struct {
	byEndpoint bool
	at         time.Time
	last       map[counterKey]counted
}

// counterKey is one counter: a frontend's, or that of an endpoint behind it, for everybody or for outsiders alone.
type counterKey struct {
	service, protocol string
	frontend          netip.AddrPort
	endpoint          string
	outside           bool
}

// counted is what a counter stands at, and how it is to be understood.
type counted struct {
	kind   render.Kind
	raw    uint64
	tally  report.Tally
	missed int // readings in a row that it was not in
}

// maxMissed is how many readings may miss a counter: a listing that others disturb can lack an element, which is not made
// anew for that.
const maxMissed = 3

// rows returns a row for each Service port that is there now, the busiest first. A counter that went back, or that there
// was none of, counts from 0: somebody made it anew.
func (m *meter) rows(now report.Description, at time.Time) []topRow {
	counters := countersOf(now, m.byEndpoint)
	seconds := at.Sub(m.at).Seconds()
	if m.at.IsZero() {
		seconds = 0
	}
	type name struct{ service, endpoint string }
	rows := make(map[name]*topRow)
	for key, c := range counters {
		of := name{key.service, key.endpoint}
		r := rows[of]
		if r == nil {
			r = &topRow{service: key.service, endpoint: key.endpoint}
			rows[of] = r
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

// since is what came since the last reading; all of it at the first, which lasted no time.
func (m *meter) since(key counterKey, now counted) report.Tally {
	before := m.last[key]
	switch {
	case m.at.IsZero():
		return report.Tally{}
	case now.raw < before.raw:
		return now.tally
	}
	was, is := before.tally, now.tally // the parts of one counter are not read in one moment
	return report.Tally{Served: is.Served - min(is.Served, was.Served), Refused: is.Refused - min(is.Refused, was.Refused),
		Dropped: is.Dropped - min(is.Dropped, was.Dropped)}
}

// remember keeps a reading for the next one, and what it lacks for a while.
func (m *meter) remember(counters map[counterKey]counted, at time.Time) {
	for key, c := range m.last {
		if _, there := counters[key]; !there && c.missed < maxMissed {
			c.missed++
			counters[key] = c
		}
	}
	m.last, m.at = counters, at
}

func (r *topRow) add(c counted, since report.Tally, seconds float64) {
	if kind := string(report.OrDash(c.kind)); !slices.Contains(r.kinds, kind) {
		r.kinds = append(r.kinds, kind)
	}
	r.total += c.tally.All()
	r.connections += float64(since.Served) / seconds
	r.refused += float64(since.Refused) / seconds
	r.dropped += float64(since.Dropped) / seconds
}

// rate is what a row is sorted by: who is refused comes as often.
func (r topRow) rate() float64 { return r.connections + r.refused + r.dropped }

// countersOf lists the counters of frontends, or of their endpoints.
func countersOf(d report.Description, byEndpoint bool) map[counterKey]counted {
	all := make(map[counterKey]counted)
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			key := counterKey{service: report.PortName(s), protocol: s.Protocol, frontend: netip.AddrPortFrom(f.Address, f.Port)}
			if byEndpoint {
				countEndpoints(all, key, f)
			} else if f.Connections != nil {
				all[key] = counted{kind: f.Kind, raw: *f.Connections, tally: f.Tally()}
			}
		}
	}
	return all
}

// countEndpoints adds the counters of a frontend's endpoints.
func countEndpoints(all map[counterKey]counted, key counterKey, f report.Frontend) {
	var outside []report.Endpoint
	if f.LocalEndpoints != nil {
		outside = *f.LocalEndpoints
	}
	for i, e := range slices.Concat(f.Endpoints, outside) {
		if e.Connections != nil {
			key.endpoint, key.outside = e.String(), i >= len(f.Endpoints)
			all[key] = counted{kind: f.Kind, raw: *e.Connections, tally: report.Tally{Served: *e.Connections}}
		}
	}
}
