package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"text/template"
	"time"
)

//go:embed page.md
var pageText string

// page is what the template page.md shows.
type page struct {
	run
	samples samples
	Figures []pageFigure
}

type pageFigure struct{ Name, Title, Text string }

// pageOf returns the page about a run.
func pageOf(r run, s samples) ([]byte, error) {
	p := page{run: r, samples: s}
	for _, f := range figures() {
		p.Figures = append(p.Figures, pageFigure{f.name, f.title, f.text})
	}
	parsed, err := template.New("page").Parse(pageText)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = parsed.Execute(&text, p)
	return text.Bytes(), err
}

// Time returns the duration of the run, rounded to seconds.
func (p page) Time() string { return (time.Duration(p.Seconds) * time.Second).String() }

// GiB returns the memory of the machine.
func (p page) GiB() string { return fmt.Sprintf("%.0f GiB", p.Memory/(1<<30)) }

// Total returns the last value of a column, with commas.
func (p page) Total(column string) (string, error) {
	value, ok := p.Totals[column]
	if !ok {
		return "", fmt.Errorf("run.json has no total %s", column)
	}
	return grouped(value), nil
}

// Class returns the number of Services of a class.
func (p page) Class(name string) string { return grouped(float64(p.Classes[name])) }

// Number writes an integer with commas.
func (p page) Number(n int) string { return grouped(float64(n)) }

// Growth is a row of the table of the second half, in which nfproxy is not restarted.
type Growth struct{ What, Third, Last, Most string }

// Growth returns the rows.
func (p page) Growth() []Growth {
	var rows []Growth
	for _, c := range []struct {
		what, column string
		unit         float64
	}{
		{"resident memory, MiB", "resident_bytes", megabyte},
		{"Go heap in use, MiB", "heap_bytes", megabyte},
		{"descriptors", "descriptors", 1},
		{"goroutines", "goroutines", 1},
		{"threads", "threads", 1},
		{"unreclaimable slab of the machine, MiB", "slab_unreclaimable_bytes", megabyte},
		{"conntrack entries", "conntrack_entries", 1},
		{"median commit duration, ms", "commit_p50_seconds", 0.001},
		{"99th percentile of the commit duration, ms", "commit_p99_seconds", 0.001},
		{"load average of the machine", "load_average", 1},
	} {
		most := math.NaN()
		if all := known(p.samples[c.column]); len(all) > 0 {
			most = all[len(all)-1]
		}
		rows = append(rows, Growth{c.what, grouped(median(p.samples.quarter(c.column, 2)) / c.unit),
			grouped(median(p.samples.quarter(c.column, 3)) / c.unit), grouped(most / c.unit)})
	}
	return rows
}

// Median returns the median of a column over the run in milliseconds.
func (p page) Median(column string) string {
	return fmt.Sprintf("%.1f ms", 1000*median(p.samples[column]))
}

// LoadAverage returns a quantile of the machine's load average over one minute.
func (p page) LoadAverage(quantile float64) string {
	values := known(p.samples["load_average"])
	return fmt.Sprintf("%.0f", values[int(quantile*float64(len(values)-1))])
}

// Last returns the last value of a column of durations in seconds.
func (p page) Last(column string) string { return fmt.Sprintf("%.1f s", p.Totals[column]) }

// Share returns the CPU time of a column divided by the time of the run.
func (p page) Share(column string) string {
	return fmt.Sprintf("%.2f", p.Totals[column]/p.Seconds)
}

// Message is a row of the table of log messages.
type Message struct {
	Count string
	Text  string
}

// LogMessages returns the messages of nfproxy's log, the most frequent first. Messages that contain an error are cut before it.
func (p page) LogMessages() []Message {
	const long = 70
	counts := make(map[string]int)
	for text, n := range p.run.Messages {
		if len(text) > long {
			text, _, _ = strings.Cut(text, ": ")
		}
		counts[text] += n
	}
	texts := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	var rows []Message
	for _, text := range texts {
		rows = append(rows, Message{grouped(float64(counts[text])), strings.ReplaceAll(text, "|", `\|`)})
	}
	return rows
}

// grouped rounds a number to an integer and writes it with commas between groups of three digits.
func grouped(value float64) string {
	if math.IsNaN(value) {
		return "unknown"
	}
	digits := fmt.Sprintf("%.0f", value)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
