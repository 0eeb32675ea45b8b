package main

import (
	"math"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"nfproxy/integration/report/balance"
	"nfproxy/integration/report/chart"
)

// figure is one plot over time.
type figure struct {
	name, title, axis string
	experiment        string
	least, most       float64 // the ends of the axis of values
	points            int     // how many points a line has at most; each is a mean
	until             float64 // the end of the axis of times
	unit              string  // of the times
	lines             []line
	of                func(balance.Sample) float64
}

// line is the result of one policy. nodes is 0 if it does not depend on it.
type line struct {
	label  string
	policy balance.Policy
	nodes  int
}

func figures() []figure {
	open := func(s balance.Sample) float64 { return s.Open }
	return []figure{
		{"rolling", "Rolling update with websockets: the endpoint with the most connections", "relative to the mean", "rolling", 1, 2.6, 180, 60, "minutes", []line{
			{"random", random(), 0}, {"counts, 500 nodes", counts(5, 64), 500}, {"counts, 5 nodes", counts(5, 64), 5}, {"two choices, cluster's counts", twoCluster(), 0},
		}, open},
		{"scale-up", "From 10 to 15 endpoints with websockets: the connections of new endpoints", "relative to the mean", "scale-up", 0, 1.6, 180, 120, "minutes", []line{
			{"random", random(), 0}, {"counts, 500 nodes", counts(5, 64), 500}, {"counts, 5 nodes", counts(5, 64), 5}, {"random, age at most 15 min", maxAge(), 0},
		}, func(s balance.Sample) float64 { return s.New }},
		{"lost", "From 10 to 15 endpoints, 2 % of the connections lost, 50 nodes", "relative to the mean", "lost", 0, 1.8, 180, 120, "minutes", []line{
			{"two choices, node's counts", twoOwn(), 50}, {"counts", counts(5, 64), 50}, {"random", random(), 0}, {"random, age at most 15 min", maxAge(), 0},
		}, func(s balance.Sample) float64 { return s.New }},
		{"web", "Short connections, 5 nodes: the endpoint with the most open connections", "relative to the mean", "web", 1, 11, 60, 90, "seconds", []line{
			{"all to the least, read every 5 s", least(5, 64), 5}, {"counts, read every 30 s", counts(30, 64), 5}, {"counts, read every 1 s", counts(1, 64), 5}, {"random", random(), 0},
		}, open},
	}
}

// draw writes the figure as SVG.
func (f figure) draw(all results, path string) error {
	unit := map[string]float64{"minutes": minute, "seconds": 1}[f.unit]
	p := chart.New(f.title, f.unit, f.axis)
	for i, l := range f.lines {
		r, err := all.of(f.experiment, l.policy.Name, l.nodes)
		if err != nil {
			return err
		}
		drawn, err := plotter.NewLine(f.means(r.Samples, unit))
		if err != nil {
			return err
		}
		drawn.Color, drawn.Width = chart.Colors()[i], vg.Points(1.2)
		p.Add(drawn)
		p.Legend.Add(l.label, drawn)
	}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, f.until, f.least, f.most
	return chart.Save(p, path)
}

// means returns the means of neighbouring samples, up to the end of the axis.
func (f figure) means(samples []balance.Sample, unit float64) (all plotter.XYs) {
	each := max(1, len(samples)/f.points)
	for i := 0; i+each <= len(samples); i += each {
		at, value := 0.0, 0.0
		for _, s := range samples[i : i+each] {
			at += s.At / unit / float64(each)
			value += f.of(s) / float64(each)
		}
		if at <= f.until && !math.IsNaN(value) {
			all = append(all, plotter.XY{X: at, Y: value})
		}
	}
	return all
}
