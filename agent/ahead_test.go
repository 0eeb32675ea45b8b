package agent

import (
	"context"
	"log/slog"
	"testing"

	"nfproxy/agent/metrics"
	"nfproxy/logtest"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/report"
)

// restartedDaemon returns a daemon that does not run, over the tables of an earlier one with the Service web, which the returned
// Update holds too. It has read them ahead.
func restartedDaemon(t *testing.T) (d *daemon, u render.Update, other *kernel.Conn) {
	t.Helper()
	k, other := openKernel(t), openKernel(t)
	monitor, err := k.Monitor(render.Instance{}.TableIDs()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { monitor.Close() })
	monitor.NameElements(render.Instance{}.RestorableSets()...)
	u = render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{testService("web", "10.96.0.1:80", "10.0.0.1:80")}}
	if err := k.Apply(nft.Diff(nil, render.Tables(u)), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeTables(t, other) })
	noSource := func(context.Context) (render.Update, error) { panic("the daemon does not run") }
	d = newDaemon(noSource, k, monitor, u.Node, slog.New(slog.NewTextHandler(&logtest.Buffer{}, nil)))
	d.readAhead()
	return d, u, other
}

// TestReadAhead: the first attempt after a restart compares the tables that were read ahead and asks the kernel for nothing.
func TestReadAhead(t *testing.T) {
	d, u, _ := restartedDaemon(t)
	before := d.kernel.Traffic()
	d.take(u)
	d.attempt()
	if !d.synced || d.kernel.Traffic() != before {
		t.Errorf("in sync: %t, after traffic of %+v, before it %+v", d.synced, d.kernel.Traffic(), before)
	}
}

// TestChangeAfterReadAhead: what another program changes after the tables were read ahead is repaired, whether the notification comes
// before the first attempt or after it.
func TestChangeAfterReadAhead(t *testing.T) {
	for _, late := range []bool{false, true} {
		d, u, other := restartedDaemon(t)
		sc := render.SchemaOf(nft.IPv4)
		tables, _, err := other.Read(sc.Table)
		if err != nil {
			t.Fatal(err)
		}
		slots := nft.Elements{Set: sc.Endpoints, List: tables[0].Set(sc.Endpoints.Name).Elements}
		if err := other.Apply([]nft.Change{{Op: nft.Delete, Object: slots}}, 0); err != nil {
			t.Fatal(err)
		}
		change, err := d.monitor.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !late {
			d.takeExternal(change)
		}
		d.take(u)
		d.attempt()
		if late {
			d.takeExternal(change)
			d.attempt()
		}
		found, err := other.ReadElements(slots)
		if err != nil || len(found) != 1 {
			t.Errorf("late notification: %t: slots %v, %v, want one", late, found, err)
		}
		removeTables(t, other)
	}
}

// TestComparisonFindsUnreachable: on a kernel that does not count the elements of sets, a slot of no frontend is left out at the
// start, and the first periodic comparison removes it, although no program has committed.
func TestComparisonFindsUnreachable(t *testing.T) {
	_, u, other := restartedDaemon(t)
	stray := nft.Elements{Set: render.SchemaOf(nft.IPv4).Endpoints, List: []nft.Element{{
		Key: nft.Value("\x0a\x60\x09\x09\x06\x00\x50") + nft.Slot(0), Data: nft.Value("\x0a\x00\x00\x01\x00\x50")}}}
	if err := other.Apply([]nft.Change{{Op: nft.Add, Object: stray}}, 0); err != nil {
		t.Fatal(err)
	}
	d := startDaemonAfter(t, func(d *daemon) {
		compareOften(d)
		d.kernel.WithoutCounts = true
		if err := d.kernel.FollowReferences(report.Slots(render.Instance{}), 1, report.SlotSets(render.Instance{})...); err != nil {
			t.Fatal(err)
		}
	}, render.Instance{}.TableIDs()...)
	d.send(u.Services...)
	if before := d.awaitCompared(metrics.ComparisonRepaired); len(before) > 0 {
		t.Errorf("comparisons before the repair: %q", before)
	}
	if found, err := other.ReadElements(stray); err != nil || len(found) > 0 {
		t.Errorf("the kernel has %v, %v", found, err)
	}
	d.awaitCompared(metrics.ComparisonUnchanged)
}
