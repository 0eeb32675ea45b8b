package ratelimit

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nfproxy/logtest"
)

// TestLimiter: of each key a burst is admitted at once, and then one event in each interval. Another key is not affected.
func TestLimiter(t *testing.T) {
	l := Limiter[string]{Burst: 5, Every: time.Minute}
	begin := time.Unix(1000, 0)
	admitted, sum := 0, 0
	for i := range 3600 { // an hour, once a second
		ok, refused := l.Allow("a", begin.Add(time.Duration(i)*time.Second))
		if ok {
			admitted++
		}
		sum += refused
		if i < 5 && !ok {
			t.Errorf("event %d is refused", i)
		}
	}
	if want := 5 + 59; admitted != want || sum+admitted > 3600 || sum+admitted < 3500 {
		t.Errorf("%d admitted, want %d; %d refused", admitted, want, sum)
	}
	if ok, _ := l.Allow("b", begin.Add(time.Hour)); !ok {
		t.Error("another key is refused")
	}
	if ok, refused := l.Allow("a", begin.Add(2*time.Hour)); !ok || refused == 0 {
		t.Errorf("after calm: %t, %d refused before", ok, refused)
	}
}

// TestLimiterDelay: with a delay the first event of a key is admitted after the delay, and then one in each interval.
func TestLimiterDelay(t *testing.T) {
	l := Limiter[string]{Burst: 5, Every: time.Minute, Delay: func() time.Duration { return 10 * time.Minute }}
	begin := time.Unix(1000, 0)
	var admitted []int
	for i := range 13 * 60 {
		if ok, _ := l.Allow("a", begin.Add(time.Duration(i)*time.Second)); ok {
			admitted = append(admitted, i)
		}
	}
	if fmt.Sprint(admitted) != "[600 660 720]" {
		t.Errorf("admitted after %v seconds", admitted)
	}
}

// TestLimiterAllowFirst: of events that repeat each other one is admitted, and another one when the key is forgotten.
func TestLimiterAllowFirst(t *testing.T) {
	l := Limiter[string]{Burst: 5, Every: time.Minute}
	begin := time.Unix(1000, 0)
	admitted := 0
	for i := range 60 {
		if l.AllowFirst("a", begin.Add(time.Duration(i)*time.Second)) {
			admitted++
		}
	}
	if admitted != 1 || !l.AllowFirst("a", begin.Add(2*time.Minute)) {
		t.Errorf("%d admitted", admitted)
	}
}

// TestLimiterForgets: memory is bounded, however many keys there are, and so is what is admitted of all of them. Keys are forgotten.
func TestLimiterForgets(t *testing.T) {
	l := Limiter[int]{Burst: 5, Every: time.Minute}
	now := time.Unix(1000, 0)
	admitted := 0
	for i := range 3 * maxKeys {
		if ok, _ := l.Allow(i+1, now); ok {
			admitted++
		}
	}
	if len(l.buckets) > maxKeys+1 || admitted != maxKeys+l.Burst {
		t.Errorf("%d keys are known, %d events were admitted", len(l.buckets), admitted)
	}
	if l.Allow(-1, now.Add(time.Hour)); len(l.buckets) != 1 {
		t.Errorf("%d keys are known an hour later", len(l.buckets))
	}
}

// TestLog: a line that is admitted after others were not has their number.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out logtest.Buffer
		l := NewLog(out.Logger(slog.LevelInfo), 3)
		warn := func(object string) {
			if log, ok := l.About(object, "edited"); ok {
				log.Warn("edited", "object", object)
			}
		}
		for range 1000 {
			warn("a")
		}
		warn("b")
		if a, b := out.Lines("object=a"), out.Lines("object=b"); len(a) != 3 || len(b) != 1 || strings.Contains(out.String(), "suppressed") {
			t.Errorf("logged\n%s", out.String())
		}
		time.Sleep(Every)
		warn("a")
		warn("a")
		if lines := out.Lines("object=a"); len(lines) != 4 || len(out.Lines("suppressed=997 object=a")) != 1 {
			t.Errorf("logged\n%s", out.String())
		}
	})
}

// TestHandler: of the lines with one message a few are logged, whatever their attributes are, and the next one has the number of the
// others.
func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out logtest.Buffer
		log := slog.New(NewHandler(out.Logger(slog.LevelInfo).Handler(), 2))
		for i := range 100 {
			log.With("attempt", i).WithGroup("event").Error("could not write", "number", i)
			log.Debug("could not write")
		}
		log.Error("another")
		if lines := out.Lines("could not write"); len(lines) != 2 || len(out.Lines("attempt=1", "event.number=1")) != 1 || len(out.Lines("another")) != 1 {
			t.Errorf("logged\n%s", out.String())
		}
		time.Sleep(Every)
		log.Error("could not write")
		if len(out.Lines("could not write", "suppressed=98")) != 1 {
			t.Errorf("logged\n%s", out.String())
		}
	})
}
