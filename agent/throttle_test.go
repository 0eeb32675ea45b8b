package agent

import (
	"errors"
	"testing"
	"time"
)

// TestThrottle: when an attempt may begin, depending on what happened before.
func TestThrottle(t *testing.T) {
	begin := time.Now()
	at := func(d time.Duration) time.Time { return begin.Add(d) }
	wait := func(p *throttle, now, want time.Duration) {
		t.Helper()
		if got := p.wait(at(now)); got != want {
			t.Errorf("%v after the beginning it waits %v, want %v", now, got, want)
		}
	}
	attempt := func(p *throttle, now time.Duration, err error) {
		p.started(at(now))
		p.ended(err)
	}
	refused := errors.New("refused")

	p := &throttle{}
	wait(p, 0, 0)
	attempt(p, 0, nil)
	wait(p, 0, 0) // at once, unless there is a least time between
	p = &throttle{minSync: time.Second}
	attempt(p, 0, nil)
	wait(p, 0, time.Second)
	wait(p, 2*time.Second, 0)

	p = &throttle{}
	attempt(p, 0, refused)
	wait(p, 0, minBackoff)
	attempt(p, minBackoff, refused)
	wait(p, minBackoff, 2*minBackoff)
	p.hurry() // something new may be what was missing
	wait(p, minBackoff, 0)
	for range 20 {
		attempt(p, time.Minute, refused)
	}
	wait(p, time.Minute, maxBackoff)
	attempt(p, time.Hour, nil)
	wait(p, time.Hour, 0)

	p = &throttle{}
	attempt(p, 0, nil)
	p.disturbed(at(time.Hour))
	wait(p, time.Hour, 0) // the first is repaired at once
	attempt(p, time.Hour, nil)
	p.disturbed(at(time.Hour))
	wait(p, time.Hour, minRepairPause)
	for range 20 {
		attempt(p, time.Hour, nil)
		p.disturbed(at(time.Hour))
	}
	wait(p, time.Hour, maxRepairPause)
	p.disturbed(at(2 * time.Hour)) // after calm
	wait(p, 2*time.Hour, 0)
}
