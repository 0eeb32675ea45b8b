package main

import (
	"fmt"
	"image/color"
	"math"
	"nfproxy/integration/report/chart"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// figure is one plot over the time of the run.
type figure struct {
	name    string // of the file, without .svg
	title   string
	text    string // what the page says about it
	axis    string // the unit of the values
	log     bool   // logarithmic
	columns []column
}

// column is one line of a figure: a column of the samples, and what is drawn of it.
type column struct {
	label string
	name  string
	of    func(samples, string) []float64
}

func plain(s samples, name string) []float64     { return s[name] }
func megabytes(s samples, name string) []float64 { return s.scaled(name, megabyte) }
func rate(s samples, name string) []float64      { return s.rate(name) }

const megabyte = 1 << 20

// figures returns the figures in the order of the page.
func figures() []figure {
	return []figure{
		{"failures", "Failed connects", "Connects that failed so far, open connections that broke, and first packets of TCP connections (SYN) that the clients' kernels repeated because no answer came within a second.", "number", false, []column{
			{"calm Services", "failed_calm", plain}, {"changing Services", "failed_changing", plain}, {"open connections", "open_connections_broken", plain},
			{"repeated SYNs", "repeated_syns", plain},
		}},
		{"connects", "Connects", "Connects per second, and those that took longer than 0.9 s, most often because the processors were busy.", "per second", false, []column{
			{"calm Services", "connects_calm", rate}, {"changing Services", "connects_changing", rate},
			{"slow, calm", "slow_calm", rate}, {"slow, changing", "slow_changing", rate},
		}},
		{"memory", "Memory of nfproxy", "Resident memory, its peak since the start of the process, and the heap of the Go runtime.", "MiB", false, []column{
			{"peak", "peak_resident_bytes", megabytes}, {"resident", "resident_bytes", megabytes}, {"heap", "heap_bytes", megabytes},
		}},
		{"descriptors", "Descriptors, goroutines and threads of nfproxy", "", "number", false, []column{
			{"descriptors", "descriptors", plain}, {"goroutines", "goroutines", plain}, {"threads", "threads", plain},
		}},
		{"kernel", "Memory of the kernel", "Slab and vmalloc memory of the whole machine, from /proc/meminfo; it includes what other processes cause.", "MiB", false, []column{
			{"slab", "slab_bytes", megabytes}, {"of it unreclaimable", "slab_unreclaimable_bytes", megabytes}, {"vmalloc", "vmalloc_bytes", megabytes},
		}},
		{"commit", "Duration of commits", "Of the rounds between two samples that sent elements; interpolated within the buckets of `nfproxy_commit_duration_seconds`.", "seconds", true, []column{
			{"99th percentile", "commit_p99_seconds", plain}, {"median", "commit_p50_seconds", plain},
		}},
		{"effect", "From the change of a file to the commit", "Interpolated within the buckets of `nfproxy_event_to_commit_seconds`; the largest bound is 13.1 s.", "seconds", true, []column{
			{"99th percentile", "event_to_commit_p99_seconds", plain}, {"median", "event_to_commit_p50_seconds", plain},
		}},
		{"cpu", "CPU time", "Of nfproxy, and of the load itself with all clients and backends.", "processors", false, []column{
			{"nfproxy", "cpu_seconds", rate}, {"load", "soak_cpu_seconds", rate},
		}},
		{"conntrack", "Conntrack entries", "Of the network namespace. nfproxy deletes UDP entries that lead to removed endpoints; the load replaces them once a second.", "entries", false, []column{
			{"entries", "conntrack_entries", plain},
		}},
		{"changes", "Changes, commits and other programs", "Changes of manifests, commits of nfproxy, and inserted conntrack entries.", "per second", true, []column{
			{"entries inserted", "flows_inserted", rate}, {"changes", "changes", rate}, {"commits", "commits", rate},
		}},
	}
}

// draw writes the figure as SVG.
func (f figure) draw(s samples, path string) error {
	p := chart.New(f.title, "minutes", f.axis)
	if f.log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	highest := 0.0
	for i, c := range f.columns {
		if s[c.name] == nil {
			return fmt.Errorf("the samples have no column %s", c.name)
		}
		most, err := f.add(p, c, s, chart.Colors()[i])
		if err != nil {
			return err
		}
		highest = max(highest, most)
	}
	if f.log { // both leave room for the legend
		p.Y.Max = max(highest*10, p.Y.Min*100)
	} else {
		p.Y.Min, p.Y.Max = 0, max(highest, 1)*1.4
	}
	f.markRestarts(p, s)
	return chart.Save(p, path)
}

// add adds a line that has gaps where values are missing, and returns its highest value.
func (f figure) add(p *plot.Plot, c column, s samples, in color.Color) (highest float64, err error) {
	var part plotter.XYs
	labelled := false
	flush := func() error {
		if len(part) == 0 {
			return nil
		}
		line, err := plotter.NewLine(part)
		if err != nil {
			return err
		}
		part = nil
		line.Color, line.Width = in, vg.Points(1.2)
		p.Add(line)
		if !labelled {
			p.Legend.Add(c.label, line)
			labelled = true
		}
		return nil
	}
	for i, value := range c.of(s, c.name) {
		if math.IsNaN(value) || f.log && value <= 0 {
			if err := flush(); err != nil {
				return 0, err
			}
			continue
		}
		highest = max(highest, value)
		part = append(part, plotter.XY{X: s["elapsed_seconds"][i] / 60, Y: value})
	}
	return highest, flush()
}

// markRestarts adds a vertical line at each sample that followed a restart of nfproxy.
func (f figure) markRestarts(p *plot.Plot, s samples) {
	restarts := s["restarts"]
	for i := 1; i < len(restarts); i++ {
		if restarts[i] == restarts[i-1] {
			continue
		}
		minute := s["elapsed_seconds"][i] / 60
		line := &plotter.Line{XYs: plotter.XYs{{X: minute, Y: p.Y.Min}, {X: minute, Y: p.Y.Max}}, LineStyle: plotter.DefaultLineStyle}
		line.Color, line.Width, line.Dashes = color.Gray{Y: 0xa0}, vg.Points(0.5), []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(line)
	}
}
