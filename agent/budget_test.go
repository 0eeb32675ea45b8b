package agent

import (
	"testing"
	"time"
)

// TestBudget: however often a task is wanted, it runs for no more than its share of the time, its burst and one run, in any period.
// After calm it runs at once again.
func TestBudget(t *testing.T) {
	const share, burst = 4, 10 * time.Second
	for _, took := range []time.Duration{time.Millisecond, time.Second, 7 * time.Second, time.Minute} {
		b := budget{share: share, burst: burst}
		begin := time.Unix(1000, 0)
		now, worked, runs := begin, time.Duration(0), 0
		for now.Sub(begin) < time.Hour {
			now = now.Add(b.wait(now))
			if b.wait(now) > 0 {
				t.Fatalf("after its pause it waits %s", b.wait(now))
			}
			b.spend(now, took)
			now = now.Add(took)
			worked += took
			runs++
			if limit := now.Sub(begin)/share + burst + took; worked > limit {
				t.Fatalf("runs of %s: %s within %s, more than %s", took, worked, now.Sub(begin), limit)
			}
		}
		if least := (time.Hour - took) / share; worked < least {
			t.Errorf("runs of %s: %d runs take %s of an hour, less than the share", took, runs, worked)
		}
		if now = now.Add(share*(burst+took) + share*took); b.wait(now) > 0 {
			t.Errorf("runs of %s: after calm it waits %s", took, b.wait(now))
		}
	}
}
