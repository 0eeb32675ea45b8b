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

// Attempts that read the tables take a quarter of the time at most, and 10 s more at once: a repair of many Services takes
// seconds, and must not wait if there are few. An attempt whose changes are known without reading never waits for that.
const (
	readShare = 4
	readBurst = 10 * time.Second
)

// throttle decides when the daemon may program the kernel. The throttle of newThrottle lets every attempt start at once, and
// makes pauses after failures, between repairs, and after attempts that read the tables.
type throttle struct {
	minSync time.Duration // the least time between the beginnings of two attempts
	last    time.Time     // when the last attempt began
	due     time.Time     // when the next attempt may begin
	backoff time.Duration // the pause after failed attempts
	hurried bool          // an Update has ended a pause since the last success

	disturbedAt time.Time // when the last external change was noted
	pause       time.Duration
	repairDue   time.Time // when the next repair may begin

	reads budget // of the attempts that read the tables
}

func newThrottle() throttle { return throttle{reads: budget{share: readShare, burst: readBurst}} }

// attemptTask is what an attempt has to do besides sending the changes of Updates.
type attemptTask struct {
	repairs bool // it repairs what another program changed
	reads   bool // it reads the tables
}

// wait returns the time until the next attempt may begin.
func (t *throttle) wait(now time.Time, does attemptTask) time.Duration {
	wait := max(0, t.due.Sub(now))
	if does.repairs {
		wait = max(wait, t.repairDue.Sub(now))
	}
	if does.reads {
		wait = max(wait, t.reads.wait(now))
	}
	return wait
}

// mayStart reports whether an attempt may begin.
func (t *throttle) mayStart(now time.Time, does attemptTask) bool { return t.wait(now, does) == 0 }

// mayRead reports whether an attempt in progress may read the tables although it was not expected to.
func (t *throttle) mayRead(now time.Time) bool { return t.reads.wait(now) == 0 }

// started notes the beginning of an attempt.
func (t *throttle) started(now time.Time) { t.last = now }

// ended notes the end of an attempt, its result, and whether it read the tables.
func (t *throttle) ended(now time.Time, err error, read bool) {
	if read {
		t.reads.spend(t.last, now.Sub(t.last))
	}
	t.due = t.last.Add(t.minSync)
	if err == nil {
		t.backoff, t.hurried = 0, false
		return
	}
	t.backoff = min(max(2*t.backoff, minBackoff), maxBackoff)
	if until := now.Add(t.backoff); until.After(t.due) {
		t.due = until
	}
}

// hurry ends the pause after failures: an Update arrived, which may bring what was missing. If the next attempt fails too, later
// Updates do not end the pauses any more: they may come at any rate.
func (t *throttle) hurry() {
	if t.backoff > 0 && !t.hurried {
		t.hurried = true
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
	if until := t.last.Add(t.pause); until.After(t.repairDue) {
		t.repairDue = until
	}
}
