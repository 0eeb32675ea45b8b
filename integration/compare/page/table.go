//go:build linux

package page

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"nfproxy/integration/compare/record"
)

// peers are the proxies that nfproxy is compared with.
var peers = []record.Proxy{record.KubeProxyNftables, record.KubeProxyIptables}

// row is the measurements of one experiment at one size with the same parameters, by proxy.
type row struct {
	services, endpoints int
	parameters          string
	of                  map[record.Proxy]*record.Measurement
}

// parametersOf returns the parameters of a measurement as text: "peak" for the parameter what, otherwise "from pod, protocol TCP".
func parametersOf(m *record.Measurement) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m.Parameters)) {
		if name == "what" {
			all = append(all, m.Parameters[name])
		} else {
			all = append(all, name+" "+m.Parameters[name])
		}
	}
	return strings.Join(all, ", ")
}

// rowsOf returns the rows of an experiment, in the order of their parameters and sizes.
func rowsOf(all []record.Record, experiment string) []row {
	var rows []row
	for i := range all {
		for j := range all[i].Measurements {
			m := &all[i].Measurements[j]
			if m.Experiment != experiment {
				continue
			}
			same := func(r row) bool {
				return r.services == m.Services && r.endpoints == m.Endpoints && r.parameters == parametersOf(m)
			}
			at := slices.IndexFunc(rows, same)
			if at < 0 {
				at = len(rows)
				rows = append(rows, row{m.Services, m.Endpoints, parametersOf(m), make(map[record.Proxy]*record.Measurement)})
			}
			rows[at].of[m.Proxy] = m
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.parameters, b.parameters), cmp.Compare(a.services, b.services), cmp.Compare(a.endpoints, b.endpoints))
	})
	return rows
}

// find returns a row of an experiment.
func find(all []record.Record, experiment, parameters string, services, endpoints int) (row, bool) {
	rows := rowsOf(all, experiment)
	i := slices.IndexFunc(rows, func(r row) bool {
		return r.parameters == parameters && r.services == services && r.endpoints == endpoints
	})
	if i < 0 {
		return row{}, false
	}
	return rows[i], true
}

// size returns the size of a row: "10,000 x 3".
func (r row) size() string {
	return fmt.Sprintf("%s x %s", Grouped(r.services), Grouped(r.endpoints))
}

// higherIsBetter reports whether more is better, as follows from the unit.
func higherIsBetter(unit string) bool { return unit == record.PerSecond || unit == record.BitsPerSec }

// advantage is by how much nfproxy is better than a peer: more than 1 if it is. atLeast is set if the peer exceeded its bound, so that
// the advantage is larger.
type advantage struct {
	times   float64
	atLeast bool
}

// over returns the advantage of nfproxy over a peer. It returns false if one of them has no result, or if nothing can be said because
// nfproxy exceeded its bound, the bound of the peer is lower than what nfproxy took, or a result is 0.
func (r row) over(peer record.Proxy) (advantage, bool) {
	own, other := r.of[record.Nfproxy], r.of[peer]
	if own == nil || other == nil || own.OverBound() {
		return advantage{}, false
	}
	value, atLeast := other.P50, other.OverBound()
	if atLeast {
		value = other.Bound
	}
	if own.P50 == 0 || value == 0 || atLeast && value < own.P50 {
		return advantage{}, false
	}
	if higherIsBetter(own.Unit) {
		return advantage{own.P50 / value, atLeast}, true
	}
	return advantage{value / own.P50, atLeast}, true
}

// Results that differ by less than similar are about the same.
const similar = 1.05

func (a advantage) isBetter() bool { return a.times > similar }
func (a advantage) isWorse() bool  { return a.times < 1/similar }

func (a advantage) String() string {
	text := short(a.times) + " times"
	if a.atLeast {
		text = "more than " + text
	}
	if a.isWorse() {
		text = "**" + text + "**"
	}
	return text
}

// isMeasured reports whether one of the rows has a result of a proxy.
func isMeasured(rows []row, proxy record.Proxy) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return r.of[proxy] != nil })
}

// table returns the rows as Markdown, with the advantages over the peers unless the experiment is neutral.
func (e experiment) table(rows []row) string {
	var columns []record.Proxy
	for _, proxy := range record.Proxies() {
		if isMeasured(rows, proxy) {
			columns = append(columns, proxy)
		}
	}
	var compared []record.Proxy
	for _, peer := range peers {
		if !e.neutral && isMeasured(rows, peer) && isMeasured(rows, record.Nfproxy) {
			compared = append(compared, peer)
		}
	}
	withParameters := slices.ContainsFunc(rows, func(r row) bool { return r.parameters != "" })

	head := []string{"Services x endpoints"}
	if withParameters {
		head = append(head, "")
	}
	for _, proxy := range columns {
		head = append(head, e.nameOf(proxy))
	}
	for _, peer := range compared {
		head = append(head, "better than "+string(peer))
	}
	text := line(head) + strings.Repeat("|---", len(head)) + "|\n"
	for _, r := range rows {
		cells := []string{r.size()}
		if withParameters {
			cells = append(cells, r.parameters)
		}
		for _, proxy := range columns {
			cells = append(cells, e.cell(r.of[proxy]))
		}
		for _, peer := range compared {
			cell := ""
			if a, ok := r.over(peer); ok {
				cell = a.String()
			}
			cells = append(cells, cell)
		}
		text += line(cells)
	}
	return text
}

func (e experiment) nameOf(proxy record.Proxy) string {
	if proxy == record.None {
		return "no proxy"
	}
	return string(proxy)
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

// cell returns a measurement as text, with how often it was made and how much it varied.
func (e experiment) cell(m *record.Measurement) string {
	if m == nil {
		return "not measured"
	}
	text := valueOf(m)
	switch {
	case m.Count == 0:
	case e.quantiles && m.Count > 1:
		text += fmt.Sprintf("; p99 %s, of %d", quantity(m.P99, m.Unit), m.Count)
	case m.Count > 1:
		text += fmt.Sprintf("; %s to %s, of %d", quantity(m.Min, m.Unit), quantity(m.Max, m.Unit), m.Count)
	}
	if m.Exceeded > 0 && m.Count > 0 {
		text += fmt.Sprintf("; %d longer than %s", m.Exceeded, quantity(m.Bound, m.Unit))
	}
	if m.Note != "" {
		text += "; " + m.Note
	}
	return text
}

// valueOf returns the median, or the bound if that was exceeded.
func valueOf(m *record.Measurement) string {
	if m.OverBound() {
		return "more than " + quantity(m.Bound, m.Unit)
	}
	return quantity(m.P50, m.Unit)
}
