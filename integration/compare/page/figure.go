//go:build linux

package page

import (
	"strings"

	"nfproxy/integration/compare/record"
)

// Figure is a plot of one experiment by the number of Services, both axes logarithmic.
type Figure struct {
	Name   string // of the file, without .svg
	Title  string
	Axis   string // the unit of the values
	Series []Series
}

// Series is the results of one proxy.
type Series struct {
	Proxy  record.Proxy
	Points []Point
}

// Point is a median. If Exceeded is set, it was more than the value.
type Point struct {
	Services, Value float64
	Exceeded        bool
}

// Figures returns the plots of the records.
func Figures(all []record.Record) []Figure {
	var figures []Figure
	for _, e := range order(all) {
		if f, ok := e.figure(all); ok {
			figures = append(figures, f)
		}
	}
	return figures
}

// axes are the units of plots.
var axes = map[string]prefix{
	record.Seconds: {"seconds", 1}, record.CPUSeconds: {"CPU seconds", 1}, record.Bytes: {"MB", 1e6}, record.PerSecond: {"per second", 1},
	record.BitsPerSec: {"Gbit/s", 1e9},
}

// figure returns the plot of an experiment, if it has one and there are at least two sizes.
func (e experiment) figure(all []record.Record) (Figure, bool) {
	f := Figure{Name: strings.ReplaceAll(e.name, " ", "-"), Title: e.title}
	if !e.drawn {
		return f, false
	}
	if e.plotted != "" {
		f.Title += ": " + e.plotted
	}
	longest := 0
	for _, proxy := range record.Proxies() {
		s := Series{Proxy: proxy}
		for _, r := range rowsOf(all, e.name) {
			m := r.of[proxy]
			if m == nil || r.parameters != e.plotted || r.endpoints != e.endpoints {
				continue
			}
			axis := axes[m.Unit]
			f.Axis = axis.name
			value := m.P50
			if m.OverBound() {
				value = m.Bound
			}
			if value > 0 {
				s.Points = append(s.Points, Point{float64(r.services), value / axis.of, m.OverBound()})
			}
		}
		if len(s.Points) > 0 {
			f.Series = append(f.Series, s)
		}
		longest = max(longest, len(s.Points))
	}
	return f, longest > 1
}
