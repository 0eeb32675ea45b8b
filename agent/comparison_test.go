package agent

import (
	"strings"
	"testing"
	"time"

	"nfproxy/agent/metrics"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// otherTable is a table of another program.
func otherTable(name string) nft.TableID { return nft.TableID{Family: nft.IPv4, Name: name} }

// compareOften lets a daemon compare many times a second. The pause does not grow a hundredfold with what a comparison takes, which
// on a loaded machine is a tenth of a second.
func compareOften(d *daemon) { d.comparison = comparison{interval: 20 * time.Millisecond, share: 1} }

// awaitCompared waits for a periodic comparison with this result and returns the results before it.
func (d *testDaemon) awaitCompared(want metrics.ComparisonResult) (before []metrics.ComparisonResult) {
	d.t.Helper()
	for end := time.After(patience); ; {
		select {
		case got := <-d.compared:
			if got == want {
				return before
			}
			before = append(before, got)
		case <-end:
			d.t.Fatalf("no comparison is %s, only %q; the log:\n%s", want, before, d.log)
		}
	}
}

// TestComparisonRepairs: a periodic comparison repairs an external change of which no notification told, and logs it.
func TestComparisonRepairs(t *testing.T) {
	d := startDaemonAfter(t, compareOften, otherTable("other")) // notifications about nfproxy's tables are ignored
	d.send(testService("web", "10.96.0.1:80", "10.0.0.1:80"))
	d.await()
	tables, _, err := d.kernel.Read(render.Instance{}.TableIDs()...)
	if err == nil {
		err = d.kernel.Apply(nft.Diff(tables, nil), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.awaitCompared(metrics.ComparisonRepaired)
	if c := d.await(); !c.repaired || !strings.Contains(d.text(), "ns/web:p") {
		t.Errorf("%+v is not a repair:\n%s", c, d.text())
	}
	if log := d.log.String(); !strings.Contains(log, "a periodic comparison found and repaired a change of which no notification told") {
		t.Errorf("the log says\n%s", log)
	}
}

// TestComparisonReadsOnlyAfterCommits: a periodic comparison reads the tables only if another program has committed since they
// were last read, and then finds no difference if only other tables changed. Updates of nfproxy do not count.
func TestComparisonReadsOnlyAfterCommits(t *testing.T) {
	d := startDaemonAfter(t, compareOften, render.Instance{}.TableIDs()...)
	d.send(testService("web", "10.96.0.1:80", "10.0.0.1:80"))
	d.await()
	d.awaitCompared(metrics.ComparisonUnchanged)
	d.send(testService("more", "10.96.0.2:80", "10.0.0.2:80"))
	d.await()
	for range 3 {
		if before := d.awaitCompared(metrics.ComparisonUnchanged); len(before) > 0 {
			t.Errorf("comparisons are %q although only nfproxy commits", before)
		}
	}
	other := []*nft.Table{{TableID: otherTable("other")}}
	if err := d.kernel.Apply(nft.Diff(nil, other), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.kernel.Apply(nft.Diff(other, nil), 0); err != nil {
			t.Error(err)
		}
	})
	d.awaitCompared(metrics.ComparisonEqual)
	if before := d.awaitCompared(metrics.ComparisonUnchanged); len(before) > 0 {
		t.Errorf("after one commit further comparisons are %q", before)
	}
}

// TestComparisonSchedule: the pause between comparisons has jitter, and is much longer than a comparison takes.
func TestComparisonSchedule(t *testing.T) {
	now, pauses := time.Unix(1000, 0), make(map[time.Duration]bool)
	c := comparison{interval: comparisonInterval, share: comparisonShare}
	for range 100 {
		c.schedule(now, time.Second)
		pause := c.wait(now)
		pauses[pause] = true
		if pause < comparisonInterval || pause > comparisonInterval*3/2 || c.isDue(now.Add(pause-1)) || !c.isDue(now.Add(pause)) {
			t.Errorf("the next comparison is after %s", pause)
		}
	}
	if len(pauses) < 50 {
		t.Errorf("only %d different pauses", len(pauses))
	}
	if c.schedule(now, 10*time.Second); c.wait(now) != 1000*time.Second {
		t.Errorf("after a comparison of 10 s the next one is after %s", c.wait(now))
	}
	var never comparison
	if never.schedule(now, time.Second); never.isDue(now.Add(time.Hour)) {
		t.Error("a comparison without an interval is due")
	}
}

// TestRepaired: a commit counts as a repair if another program has changed the tables. If notifications were lost, and an Update
// came at the same time, the changes are taken for those of the Update.
func TestRepaired(t *testing.T) {
	changed, missed := &kernel.ExternalChange{First: "delete chain"}, &kernel.ExternalChange{Missed: true}
	changes := []nft.Change{{Op: nft.Add, Object: &nft.Chain{}}}
	for _, c := range []struct {
		name        string
		synced      bool
		disturbance *kernel.ExternalChange
		comparison  bool
		update      bool
		changes     []nft.Change
		want        bool
	}{
		{"the start", false, nil, false, true, changes, false},
		{"a change", true, changed, false, false, changes, true},
		{"a change and an Update", true, changed, false, true, changes, true},
		{"a change that leaves the tables as they are", true, changed, false, false, nil, false},
		{"lost notifications", true, missed, false, false, changes, true},
		{"lost notifications and an Update", true, missed, false, true, changes, false},
		{"a comparison", true, nil, true, false, changes, true},
		{"a failed Update", true, nil, false, true, changes, false},
	} {
		d := &daemon{synced: c.synced, disturbance: c.disturbance, comparison: comparison{running: c.comparison}}
		round := commit{full: true, changes: c.changes}
		if c.update {
			round.seen = time.Now()
		}
		if got := d.repaired(round); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
