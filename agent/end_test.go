package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/logtest"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// TestEndWhileProgramming: a daemon that ends while it programs a large change completes the change, without an error in the log.
func TestEndWhileProgramming(t *testing.T) {
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	defer removeTables(t, k)
	k.CounterKey = render.CounterKey
	monitor, err := k.Monitor(render.Instance{}.TableIDs()...)
	if err != nil {
		t.Fatal(err)
	}
	large := render.Update{Node: render.Node{Name: "n"}}
	for i := range 1000 { // enough for a batch that pauses the monitor
		frontend := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)
		large.Services = append(large.Services, testService(fmt.Sprintf("s%d", i), frontend.String(), "10.0.0.1:80"))
	}
	updates := make(chan render.Update, 1)
	next := func(ctx context.Context) (render.Update, error) {
		select {
		case u := <-updates:
			return u, nil
		case <-ctx.Done():
			return render.Update{}, ctx.Err()
		}
	}
	var log logtest.Buffer
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var l lifecycle
	l.owns(monitor)
	d := newDaemon(next, k, monitor, render.Node{Name: "n"}, slog.New(slog.NewTextHandler(&log, nil)))
	d.startTasks(&l)
	commits := 0
	d.observers = []observer{{
		updated: func(u render.Update) {
			if len(u.Services) == len(large.Services) {
				end()
				time.Sleep(50 * time.Millisecond) // for the other tasks to end before the attempt begins
			}
		},
		committed: func(commit) {
			if commits++; commits == 1 {
				updates <- large
			}
		},
	}}
	updates <- render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{testService("web", "10.97.0.1:80")}}
	if err := l.run(ctx); err != nil {
		t.Error(err)
	}
	if text := log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
		t.Errorf("the log says\n%s", text)
	}
	if commits != 2 {
		t.Errorf("%d commits, want 2", commits)
	}
}
