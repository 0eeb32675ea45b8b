package agent

import "time"

// Bounds of the time between attempts when the kernel refuses or cannot be read.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Repairs follow at once upon what others do, unless they keep doing it: then with a growing pause, so that two programs
// which disagree about the tables do not keep a processor busy. After calm the next is done at once again.
const (
	minRepairPause = 20 * time.Millisecond
	maxRepairPause = time.Second
	calm           = 2 * time.Second
)

// pace says when the proxy may program.
type throttle struct {
	minSync time.Duration // least time between the beginnings of two attempts
	last    time.Time     // when the last attempt began
	due     time.Time     // not before
	backoff time.Duration // after the attempts that failed

	repaired time.Time // when others last disturbed
	pause    time.Duration
}

// wait is how long the next attempt has to wait, 0 if it may begin.
func (p *throttle) wait(now time.Time) time.Duration { return max(0, p.due.Sub(now)) }

func (p *throttle) mayStart(now time.Time) bool { return p.wait(now) == 0 }

// started notes the beginning of an attempt, ended its outcome.
func (p *throttle) started(now time.Time) { p.last = now }

func (p *throttle) ended(err error) {
	if err == nil {
		p.backoff, p.due = 0, p.last.Add(p.minSync)
		return
	}
	p.backoff = min(max(2*p.backoff, minBackoff), maxBackoff)
	p.due = p.last.Add(max(p.backoff, p.minSync))
}

// hurry ends a wait after failures: there is something new, and it may be what was missing.
func (p *throttle) hurry() {
	if p.backoff > 0 {
		p.due = p.last.Add(p.minSync)
	}
}

// disturbed notes that there is something to repair.
func (p *throttle) disturbed(now time.Time) {
	if now.Sub(p.repaired) > calm {
		p.pause = 0
	} else {
		p.pause = min(max(2*p.pause, minRepairPause), maxRepairPause)
	}
	p.repaired = now
	if until := p.last.Add(p.pause); until.After(p.due) {
		p.due = until
	}
}
