package agent

import (
	"errors"
	"log/slog"
	"testing"

	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// TestInnocentAfterForeignChange: if another daemon writes between the reading of the tables and an attempt, the kernel refuses to
// add elements that exist already, and to delete elements that do not exist. No Service is quarantined for that.
func TestInnocentAfterForeignChange(t *testing.T) {
	open := func() *kernel.Conn {
		k, err := kernel.Open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { k.Close() })
		return k
	}
	ours, others := open(), open()
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
