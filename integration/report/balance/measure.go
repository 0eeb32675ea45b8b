package balance

import (
	"math"
	"slices"
)

// Result holds the measures of a run, from Scenario.From to Scenario.End. Loads and connections are relative to the mean of the
// endpoints that serve.
type Result struct {
	Open, OpenWorst float64 // the most open connections of an endpoint: mean over time, and 99th percentile of the time
	Settled         float64 // the most open connections of an endpoint ten minutes after From
	Load            float64 // the highest load of an endpoint for its speed, mean over time
	LoadP99         float64 // the 99th percentile of loads, over all endpoints and samples
	// Rebalanced is the time, from From on, until the endpoints that were added have 80 % of the mean of all. It is NaN if there are
	// none, and infinite if it is not reached.
	Rebalanced float64
	// New is the mean of the open connections of the endpoints that were added, at the end; NaN if there are none.
	New float64
	// Surge is the largest part of the new connections within a minute that went to one endpoint, relative to an equal part.
	Surge float64
	// Written is the number of slots that a node changes in a second.
	Written float64
	// Failed is the share of the attempts to connect that failed.
	Failed float64
	// Answered is the 99th percentile of the times until requests were done, in seconds.
	Answered float64
	Samples  []Sample
}

// Median returns the median of each measure over results, of which there is at least one, with the samples of the first.
func Median(results []Result) Result {
	m := Result{Samples: results[0].Samples}
	for _, of := range []func(*Result) *float64{
		func(r *Result) *float64 { return &r.Open }, func(r *Result) *float64 { return &r.OpenWorst },
		func(r *Result) *float64 { return &r.Settled }, func(r *Result) *float64 { return &r.Load }, func(r *Result) *float64 { return &r.LoadP99 },
		func(r *Result) *float64 { return &r.Rebalanced }, func(r *Result) *float64 { return &r.New },
		func(r *Result) *float64 { return &r.Surge }, func(r *Result) *float64 { return &r.Written },
		func(r *Result) *float64 { return &r.Failed }, func(r *Result) *float64 { return &r.Answered },
	} {
		var values []float64
		for i := range results {
			values = append(values, *of(&results[i]))
		}
		*of(&m) = quantile(values, 0.5)
	}
	return m
}

// Sample is the state at one time.
type Sample struct {
	At   float64 // since Scenario.From
	Open float64 // the most open connections of an endpoint, relative to the mean
	New  float64 // the mean of open connections of endpoints that were added, relative to that of all; NaN without any
	One  float64 // the open connections of the last endpoint
}

// recorder collects what a Result is made of.
type recorder struct {
	samples          []Sample
	loads            []float64 // of all endpoints and samples
	highest          float64   // sum over the samples of the highest load
	times            []float64
	attempts, failed int
	minute           int
	began            []int // connections of each endpoint in this minute
	surge            float64
	written          int
}

func (r *recorder) measured(s *simulation) bool { return s.now >= s.From }

// attempt records that a client connects.
func (r *recorder) attempt(s *simulation, endpoint int32, fails bool) {
	if !r.measured(s) {
		return
	}
	if minute := int((s.now - s.From) / 60); minute != r.minute || r.began == nil {
		r.endMinute(s)
		r.minute, r.began = minute, make([]int, len(s.nodes[0].entries))
	}
	r.began[endpoint]++
	r.attempts++
	if fails {
		r.failed++
	}
}

func (r *recorder) endMinute(s *simulation) {
	sum := 0
	for _, n := range r.began {
		sum += n
	}
	if sum > 0 {
		r.surge = max(r.surge, float64(slices.Max(r.began)*len(s.serving))/float64(sum))
	}
}

// wrote records that a node has changed slots.
func (r *recorder) wrote(s *simulation, slots int) {
	if r.measured(s) {
		r.written += slots
	}
}

func (r *recorder) answered(s *simulation, time float64) {
	if r.measured(s) {
		r.times = append(r.times, time)
	}
}

func (r *recorder) sample(s *simulation) {
	open, load, speed, added, addedOpen := 0.0, 0.0, 0.0, 0.0, 0.0
	mostOpen, mostLoad := 0.0, 0.0
	for _, i := range s.serving {
		e := &s.endpoints[i]
		open += float64(e.open)
		load += e.load
		speed += e.speed
		mostOpen, mostLoad = max(mostOpen, float64(e.open)), max(mostLoad, e.load/e.speed)
		if e.since > 0 {
			added++
			addedOpen += float64(e.open)
		}
	}
	if open == 0 {
		return
	}
	mean, last := open/float64(len(s.serving)), s.endpoints[s.serving[len(s.serving)-1]]
	r.samples = append(r.samples, Sample{s.now - s.From, mostOpen / mean, addedOpen / added / mean, float64(last.open)})
	r.highest += mostLoad * speed / load
	for _, i := range s.serving {
		r.loads = append(r.loads, s.endpoints[i].load/s.endpoints[i].speed*speed/load)
	}
}

func (r *recorder) finish(s *simulation) Result {
	r.endMinute(s)
	n := float64(len(r.samples))
	result := Result{Load: r.highest / n, LoadP99: quantile(r.loads, 0.99), Rebalanced: r.rebalanced(), New: r.samples[len(r.samples)-1].New, Surge: r.surge,
		Written: float64(r.written) / float64(s.Nodes) / (s.End - s.From), Failed: float64(r.failed) / float64(r.attempts),
		Answered: quantile(r.times, 0.99), Samples: r.samples}
	var open []float64
	for _, sample := range r.samples {
		result.Open += sample.Open / n
		open = append(open, sample.Open)
		if sample.At <= 600 {
			result.Settled = sample.Open
		}
	}
	result.OpenWorst = quantile(open, 0.99)
	return result
}

func (r *recorder) rebalanced() float64 {
	if math.IsNaN(r.samples[len(r.samples)-1].New) {
		return math.NaN()
	}
	for _, sample := range r.samples {
		if sample.New >= 0.8 {
			return sample.At
		}
	}
	return math.Inf(1)
}

// quantile returns a quantile of values, which it sorts, or NaN without any.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)-1))]
}
