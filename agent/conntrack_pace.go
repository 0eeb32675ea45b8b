package agent

import (
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the time between attempts if connection tracking cannot be read or changed.
const (
	minCleanupBackoff = 100 * time.Millisecond
	maxCleanupBackoff = 30 * time.Second
)

// After a cleanup the cleaner rests for restFactor times as long as the cleanup took, so that one cleanup covers everything that
// changed meanwhile. It rests for maxRest at most, so that a removed endpoint gets no packets for long, unless cleanups have
// taken more than their share of time.
const (
	restFactor = 4
	maxRest    = 500 * time.Millisecond
)

// Deleting stale entries takes a fifth of a processor at most, and 2 s more at once. Looking for connections that began without rules
// takes a twentieth, and 5 s more: it lists all TCP entries if another program removes all rules again and again. Looking for connections to
// endpoints that are gone takes a twentieth, and 2 s more: it lists once per delay, and endpoints can go all the time.
const (
	staleShare        = 5
	staleBurst        = 2 * time.Second
	untranslatedShare = 20
	untranslatedBurst = 5 * time.Second
	goneShare         = 20
	goneBurst         = 2 * time.Second
)

// cleanerPace decides when a task of the cleaner may start.
type cleanerPace struct {
	wanted  bool      // there may be something to do
	due     time.Time // when the task may start
	backoff time.Duration
	budget  budget
}

func newCleanerPace(share, burst time.Duration) cleanerPace {
	return cleanerPace{budget: budget{share: share, burst: burst}}
}

// wait returns the time until the task may start.
func (p *cleanerPace) wait(now time.Time) time.Duration {
	return max(0, p.due.Sub(now), p.budget.wait(now))
}

// mayStart reports whether the task is wanted and may start.
func (p *cleanerPace) mayStart(now time.Time) bool { return p.wanted && p.wait(now) == 0 }

// ended notes the end of the task, the CPU time that it took, and its result. After an error the task is wanted again. On a busy
// machine a cleanup takes much longer than its CPU time, and the next one must not wait for that.
func (p *cleanerPace) ended(began, now time.Time, cpu time.Duration, err error) {
	p.budget.spend(began, cpu)
	p.wanted = err != nil
	rest := min(restFactor*now.Sub(began), maxRest)
	if err == nil {
		p.backoff = 0
	} else {
		p.backoff = min(max(2*p.backoff, minCleanupBackoff), maxCleanupBackoff)
	}
	p.due = now.Add(max(rest, p.backoff))
}

// threadTime returns the CPU time of the calling thread, the time in the kernel included.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails only for another clock
	return time.Duration(t.Nano())
}
