//go:build linux

package main

import (
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"nfproxy/integration/compare/page"
	"nfproxy/integration/compare/record"
	"nfproxy/integration/report/chart"
)

// drawFigure writes a figure as SVG. A result that exceeded its bound is a triangle at the bound.
func drawFigure(f page.Figure, path string) error {
	p := chart.New(f.Title, "Services", f.Axis)
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker = sizes(f)
	for _, s := range f.Series {
		if err := add(p, s); err != nil {
			return err
		}
	}
	p.X.Min, p.X.Max = p.X.Min/1.2, p.X.Max*1.2
	lowest, highest := int(math.Floor(math.Log10(p.Y.Min))), int(math.Ceil(math.Log10(p.Y.Max)))+1 // leaves room for the legend
	p.Y.Min, p.Y.Max, p.Y.Tick.Marker = math.Pow10(lowest), math.Pow10(highest), decades(lowest, highest)
	return chart.Save(p, path)
}

// add adds the line and the points of one proxy.
func add(p *plot.Plot, s page.Series) error {
	var all, exceeded plotter.XYs
	for _, point := range s.Points {
		xy := plotter.XY{X: point.Services, Y: point.Value}
		all = append(all, xy)
		if point.Exceeded {
			exceeded = append(exceeded, xy)
		}
	}
	line, points, err := plotter.NewLinePoints(all)
	if err != nil {
		return err
	}
	in := chart.Colors()[colorOf(s.Proxy)]
	line.Color, line.Width = in, vg.Points(1.2)
	points.Color, points.Shape, points.Radius = in, draw.CircleGlyph{}, vg.Points(2.5)
	p.Add(line, points)
	p.Legend.Add(string(s.Proxy), line, points)
	if len(exceeded) == 0 {
		return nil
	}
	over, err := plotter.NewScatter(exceeded)
	if err != nil {
		return err
	}
	over.Color, over.Shape, over.Radius = in, draw.TriangleGlyph{}, vg.Points(6)
	p.Add(over)
	p.Legend.Add(string(s.Proxy)+": more than", over)
	return nil
}

// colorOf returns the number of a proxy's colour, the same in all plots.
func colorOf(proxy record.Proxy) int {
	for i, p := range []record.Proxy{record.KubeProxyNftables, record.Nfproxy, record.KubeProxyIptables} {
		if p == proxy {
			return i
		}
	}
	return 3
}

// decades are ticks at the powers of ten.
func decades(lowest, highest int) plot.ConstantTicks {
	var all plot.ConstantTicks
	for power := lowest; power <= highest; power++ {
		value := math.Pow10(power)
		all = append(all, plot.Tick{Value: value, Label: strconv.FormatFloat(value, 'f', -1, 64)})
	}
	return all
}

// sizes are ticks at the sizes that were measured.
func sizes(f page.Figure) plot.ConstantTicks {
	labels := make(map[float64]bool)
	var all plot.ConstantTicks
	for _, s := range f.Series {
		for _, p := range s.Points {
			if !labels[p.Services] {
				labels[p.Services] = true
				all = append(all, plot.Tick{Value: p.Services, Label: page.Grouped(int(p.Services))})
			}
		}
	}
	return all
}
