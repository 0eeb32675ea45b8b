package agent

import "time"

// budget bounds the time that a task takes which events outside nfproxy can demand at any rate: over any period the task runs
// for at most 1/share of the period, plus burst, plus one run. Within the burst runs need not wait, so that events that are few
// are handled at once. As the task is one goroutine, its share of time is at most the same share of one processor.
type budget struct {
	share time.Duration // how many times longer than the runs the period is
	burst time.Duration
	// paid is when the period ends that pays for all runs so far. It is in the future while runs take more than their share.
	paid time.Time
}

// spend notes a run.
func (b *budget) spend(began time.Time, took time.Duration) {
	if b.paid.Before(began) {
		b.paid = began
	}
	b.paid = b.paid.Add(b.share * took)
}

// wait returns the time until the next run may begin.
func (b *budget) wait(now time.Time) time.Duration {
	return max(0, b.paid.Add(-b.share*b.burst).Sub(now))
}
