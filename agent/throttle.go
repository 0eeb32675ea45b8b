package agent

import "time"

// Bounds of the time between attempts if the kernel refuses changes or cannot be read.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// A repair follows an external change at once. If external changes go on, the pause before a repair grows, so that two programs
// that disagree about the tables do not keep a processor busy. After a calm time the next repair is immediate again.
const (
	minRepairPause = 20 * time.Millisecond
	maxRepairPause = time.Second
	calm           = 2 * time.Second
)

// throttle decides when the daemon may program the kernel. The zero throttle lets every attempt start at once, and makes
// pauses after failures and between repairs.
type throttle struct {
	minSync time.Duration // the least time between the beginnings of two attempts
	last    time.Time     // when the last attempt began
	due     time.Time     // when the next attempt may begin
	backoff time.Duration // the pause after failed attempts

	disturbedAt time.Time // when the last external change was noted
	pause       time.Duration
}

// wait returns the time until the next attempt may begin.
func (t *throttle) wait(now time.Time) time.Duration { return max(0, t.due.Sub(now)) }

// mayStart reports whether an attempt may begin.
func (t *throttle) mayStart(now time.Time) bool { return t.wait(now) == 0 }

// started notes the beginning of an attempt, ended its result.
func (t *throttle) started(now time.Time) { t.last = now }

func (t *throttle) ended(err error) {
	if err == nil {
		t.backoff, t.due = 0, t.last.Add(t.minSync)
		return
	}
	t.backoff = min(max(2*t.backoff, minBackoff), maxBackoff)
	t.due = t.last.Add(max(t.backoff, t.minSync))
}

// hurry ends the pause after failures: an Update arrived, which may bring what was missing.
func (t *throttle) hurry() {
	if t.backoff > 0 {
		t.due = t.last.Add(t.minSync)
	}
}

// disturbed notes an external change, which needs a repair.
func (t *throttle) disturbed(now time.Time) {
	if now.Sub(t.disturbedAt) > calm {
		t.pause = 0
	} else {
		t.pause = min(max(2*t.pause, minRepairPause), maxRepairPause)
	}
	t.disturbedAt = now
	if until := t.last.Add(t.pause); until.After(t.due) {
		t.due = until
	}
}
