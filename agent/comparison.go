package agent

import (
	"math/rand/v2"
	"time"

	"nfproxy/agent/metrics"
)

// comparisonInterval is the shortest time between two periodic comparisons, and comparisonShare how many times longer the pause
// after a comparison is than the comparison: on a node where other programs commit all the time, comparisons take 1% of a
// processor at most.
const (
	comparisonInterval = 5 * time.Minute
	comparisonShare    = 100
)

// comparison is the periodic comparison of the kernel's tables with the desired state. It finds changes of which no
// notification told. The zero comparison never takes place.
type comparison struct {
	interval time.Duration
	share    int       // comparisonShare, except in tests
	due      time.Time // zero before the daemon is in sync
	running  bool      // the attempt in progress is a comparison
}

// schedule plans the next comparison after one that took the given time. Jitter of half the interval keeps nodes from acting
// together.
func (c *comparison) schedule(now time.Time, took time.Duration) {
	c.running = false
	if c.interval > 0 {
		c.due = now.Add(max(c.interval+rand.N(c.interval/2+1), time.Duration(c.share)*took))
	}
}

// isDue reports whether a comparison is due.
func (c *comparison) isDue(now time.Time) bool { return !c.due.IsZero() && !now.Before(c.due) }

// wait returns the time until the next comparison is due.
func (c *comparison) wait(now time.Time) time.Duration {
	if c.due.IsZero() {
		return time.Duration(1<<63 - 1)
	}
	return max(0, c.due.Sub(now))
}

// compareIfDue makes a periodic comparison if one is due and nothing waits to be programmed, so that any difference is an external
// change. Unless another program has committed since the tables were last read, there is nothing to compare; otherwise an attempt
// reads them.
func (d *daemon) compareIfDue(now time.Time) {
	if d.pending.dirty || !d.comparison.isDue(now) {
		return
	}
	changed, err := d.kernel.ChangedSinceRead()
	if err == nil && !changed {
		d.endComparison(metrics.ComparisonUnchanged, 0)
		return
	}
	// After an error the attempt reports the cause.
	d.comparison.running = true
	d.ruleset.Forget()
	d.pending.dirty = true
	d.tellDisturbed()
	d.attempt()
}

// endComparison reports the result of a comparison, which took the given time.
func (d *daemon) endComparison(result metrics.ComparisonResult, took time.Duration) {
	d.comparison.schedule(time.Now(), took)
	for _, o := range d.observers {
		if o.compared != nil {
			o.compared(result)
		}
	}
}

// compared notes that the tables were read and brought to the desired state. If a comparison led to it, its result is reported;
// otherwise it takes the place of the next comparison.
func (d *daemon) compared(c commit) {
	switch {
	case !d.comparison.running:
		d.comparison.schedule(time.Now(), c.took)
	case c.repaired:
		d.endComparison(metrics.ComparisonRepaired, c.took)
	default:
		d.endComparison(metrics.ComparisonEqual, c.took)
	}
}
