package agent

import (
	"errors"
	"testing"
	"time"

	"nfproxy/render"
)

// TestPace: when to program, by what went before.
func TestPace(t *testing.T) {
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

// TestTrials: who is tried again when, one at a time, and who has been tried often waits long.
func TestTrials(t *testing.T) {
	now := time.Now()
	var some retryQueue
	if _, ok := some.next(now); ok || some.wait(now) < time.Hour {
		t.Error("nobody is there, and is tried")
	}
	a, b := testService("a", "10.96.0.1:80").ServiceName, testService("b", "10.96.0.2:80").ServiceName
	if d := some.failed(b, now); d != minTrial {
		t.Errorf("it waits %v", d)
	}
	some.failed(a, now)
	if got := some.wait(now); got != minTrial {
		t.Errorf("the first waits %v", got)
	}
	now = now.Add(minTrial)
	if name, ok := some.next(now); !ok || name != a {
		t.Errorf("the first is %v", name)
	}
	if name, ok := some.next(now); !ok || name != b {
		t.Errorf("the second is %v", name)
	}
	if _, ok := some.next(now); ok {
		t.Error("there is a third")
	}
	if d := some.failed(b, now); d != 2*minTrial {
		t.Errorf("the second time it waits %v", d)
	}
	some.succeeded(func(n render.ServiceName) bool { return n == b }) // a is out of quarantine
	for range 20 {
		some.failed(b, now)
	}
	if len(some) != 1 || some.failed(b, now) != maxTrial {
		t.Errorf("left are %v", some)
	}
}
