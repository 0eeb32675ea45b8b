package agent

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// TestInnocentAfterForeignChange: if another daemon writes between the reading of the tables and an attempt, the kernel refuses to
// add elements that exist already, and to delete elements that do not exist. No Service is quarantined for that.
func TestInnocentAfterForeignChange(t *testing.T) {
	ours, others := openKernel(t), openKernel(t)
	defer removeTables(t, ours)
	node := render.Node{Name: "n"}
	one := testService("one", "10.96.0.1:80", "10.244.1.2:80")
	two := testService("two", "10.96.0.2:80", "10.244.1.3:80")
	newDaemonWith := func(k *kernel.Conn, services []render.Service) *daemon {
		d := newDaemon(nil, k, nil, node, slog.New(slog.DiscardHandler))
		d.ruleset.Update(render.Update{Node: node, Services: services})
		return d
	}
	program := func(k *kernel.Conn, services []render.Service) {
		t.Helper()
		if _, err := newDaemonWith(k, services).reconcile(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name          string
		before, after []render.Service // what the tables had when they were read, what both daemons want
	}{
		{"both add", []render.Service{one}, []render.Service{one, two}},
		{"both delete", []render.Service{one, two}, []render.Service{one}},
	} {
		t.Run(c.name, func(t *testing.T) {
			program(ours, c.before)
			d := newDaemonWith(ours, c.after)
			have, _, err := ours.Read(render.Instance{}.TableIDs()...)
			if err != nil {
				t.Fatal(err)
			}
			program(others, c.after)
			d.ruleset.Observe(have)
			refusal, ok := errors.AsType[*kernel.ChangeError](ours.Apply(d.ruleset.Plan(), 0))
			if !ok {
				t.Fatal("the kernel accepts the changes: the test proves nothing")
			}
			if !d.stale(refusal) {
				t.Errorf("a Service is blamed for %q", refusal)
			}
			if _, err := d.reconcile(); err != nil {
				t.Errorf("the next attempt fails: %v", err)
			}
		})
	}
}

// TestMissingExpression: if the kernel refuses to add a set or rules although no other program has committed, it lacks an expression, and
// the tables need not be read. Other refusals may have the cause that the tables differ.
func TestMissingExpression(t *testing.T) {
	ours, others := openKernel(t), openKernel(t)
	defer removeTables(t, ours)
	node := render.Node{Name: "n"}
	d := newDaemon(nil, ours, nil, node, slog.New(slog.DiscardHandler))
	d.ruleset.Update(render.Update{Node: node, Services: []render.Service{testService("one", "10.96.0.1:80", "10.244.1.2:80")}})
	if _, err := d.reconcile(); err != nil {
		t.Fatal(err)
	}
	schema := render.SchemaOf(nft.IPv4)
	objects := map[nft.Change]bool{ // whether the refusal is that of a set or rules
		{Op: nft.Add, Object: schema.Rates}: true,
		{Op: nft.Add, Object: nft.Rules{Chain: &nft.Chain{Table: schema.Table, Name: "maglev-client-1021"}}}: true,
		{Op: nft.Delete, Object: schema.Rates}: false,
	}
	check := func(changed bool) {
		t.Helper()
		for c, adds := range objects {
			if got := d.stale(&kernel.ChangeError{Change: c, Err: unix.ENOENT}); got != (changed || !adds) {
				t.Errorf("%s, another program has committed: %t; the tables may differ: %t", c.Summary(), changed, got)
			}
		}
	}
	check(false)
	table := &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "other"}}
	for _, op := range []nft.Op{nft.Add, nft.Delete} {
		if err := others.Apply([]nft.Change{{Op: op, Object: table}}, 0); err != nil {
			t.Fatal(err)
		}
	}
	check(true)
}
