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
		if got := p.wait(at(now), attemptTask{repairs: true, reads: true}); got != want {
			t.Errorf("%v after the beginning it waits %v, want %v", now, got, want)
		}
	}
	attempt := func(p *throttle, now time.Duration, err error) {
		p.started(at(now))
		p.ended(at(now), err, true)
	}
	refused := errors.New("refused")

	p := newTestThrottle(0)
	wait(p, 0, 0)
	attempt(p, 0, nil)
	wait(p, 0, 0) // at once, unless there is a least time between
	p = newTestThrottle(time.Second)
	attempt(p, 0, nil)
	wait(p, 0, time.Second)
	wait(p, 2*time.Second, 0)

	p = newTestThrottle(0)
	attempt(p, 0, refused)
	wait(p, 0, minBackoff)
	attempt(p, minBackoff, refused)
	wait(p, minBackoff, 2*minBackoff)
	p.hurry() // something new may be what was missing
	wait(p, minBackoff, 0)
	attempt(p, minBackoff, refused)
	p.hurry() // it was not
	wait(p, minBackoff, 4*minBackoff)
	for range 20 {
		attempt(p, time.Minute, refused)
	}
	wait(p, time.Minute, maxBackoff)
	attempt(p, time.Hour, nil)
	wait(p, time.Hour, 0)

	p = newTestThrottle(0)
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

func newTestThrottle(minSync time.Duration) *throttle {
	t := newThrottle()
	t.minSync = minSync
	return &t
}

// throttleTest simulates a daemon whose attempts take some time.
type throttleTest struct {
	*throttle
	now      time.Time
	known    bool // the changes are known without reading the tables
	worked   time.Duration
	attempts int
}

// attempt makes an attempt if the throttle admits it.
func (s *throttleTest) attempt(took time.Duration, err error) {
	if !s.mayStart(s.now, attemptTask{!s.known, !s.known}) {
		return
	}
	s.started(s.now)
	s.now = s.now.Add(took)
	s.ended(s.now, err, !s.known)
	s.known = err == nil
	s.worked += took
	s.attempts++
}

// TestThrottleBoundsWork: for an hour, programming fails while Updates arrive ten times a second, or another program changes the
// tables once a second or every three seconds. Attempts take a quarter of the time at most, and 10 s more.
func TestThrottleBoundsWork(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		name    string
		took    time.Duration
		every   time.Duration // between the events
		event   func(*throttleTest)
		err     error
		atMost  int // attempts
		atLeast int
	}{
		{"failures, small tables", time.Millisecond, 100 * time.Millisecond, func(s *throttleTest) { s.hurry() }, refused, 130, 100},
		{"failures, large tables", 7 * time.Second, 100 * time.Millisecond, func(s *throttleTest) { s.hurry() }, refused, 131, 80},
		{"external changes, small tables", time.Millisecond, time.Second, func(s *throttleTest) { s.disturbed(s.now); s.known = false }, nil, 3600, 1700},
		{"external changes, large tables", 7 * time.Second, time.Second, func(s *throttleTest) { s.disturbed(s.now); s.known = false }, nil, 131, 120},
		{"external changes after calm", 2 * time.Second, 3 * time.Second, func(s *throttleTest) { s.disturbed(s.now); s.known = false }, nil, 456, 400},
	} {
		s := &throttleTest{throttle: newTestThrottle(0), now: time.Unix(1000, 0), known: true}
		begin := s.now
		for next := begin; next.Sub(begin) < time.Hour; next = next.Add(c.every) {
			if s.now.Before(next) {
				s.now = next
			}
			c.event(s)
			if c.err != nil || !s.known {
				s.attempt(c.took, c.err)
			}
		}
		t.Logf("%s: %d attempts take %s of an hour", c.name, s.attempts, s.worked)
		if limit := s.now.Sub(begin)/readShare + readBurst + c.took; s.worked > limit || s.attempts > c.atMost || s.attempts < c.atLeast {
			t.Errorf("%s: %d attempts, want %d to %d; they take %s, want %s at most", c.name, s.attempts, c.atLeast, c.atMost, s.worked, limit)
		}
	}
}

// TestThrottleFastPath: an attempt whose changes are known starts at once, whatever reading the tables has taken before.
func TestThrottleFastPath(t *testing.T) {
	s := &throttleTest{throttle: newTestThrottle(0), now: time.Unix(1000, 0)}
	s.attempt(time.Hour, nil)
	if s.wait(s.now, attemptTask{reads: true}) < time.Hour || s.mayRead(s.now) {
		t.Errorf("the tables can be read again after %s", s.wait(s.now, attemptTask{reads: true}))
	}
	for range 1000 {
		if s.wait(s.now, attemptTask{}) != 0 {
			t.Fatal("a change waits")
		}
		s.attempt(time.Millisecond, nil)
	}
}
