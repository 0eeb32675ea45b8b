package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// recordedLife returns a life cycle with two resources and a task that runs until the end, and what happened to them in order.
func recordedLife() (l *lifecycle, events *[]string) {
	l, events = &lifecycle{}, &[]string{}
	for _, name := range []string{"first", "second"} {
		l.owns(closing(func() error {
			*events = append(*events, "close "+name)
			return nil
		}))
	}
	l.runs("steady", func(ctx context.Context) error {
		<-ctx.Done()
		*events = append(*events, "steady ends")
		return ctx.Err()
	})
	return l, events
}

// TestLifecycleEnds: the end of the context ends the tasks first, then closes the resources, the last one first, and is no error.
func TestLifecycleEnds(t *testing.T) {
	l, events := recordedLife()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := l.run(ctx); err != nil {
		t.Error(err)
	}
	if want := []string{"steady ends", "close second", "close first"}; !slices.Equal(*events, want) {
		t.Errorf("%q, not %q", *events, want)
	}
}

// TestLifecycleFailure: a task that ends early, with or without an error, ends all others, and the error names it.
func TestLifecycleFailure(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		ends error
		want string
	}{{broken, "fragile: broken"}, {nil, "fragile ended"}} {
		l, events := recordedLife()
		l.runs("fragile", func(context.Context) error { return c.ends })
		err := l.run(context.Background())
		if err == nil || err.Error() != c.want || c.ends != nil && !errors.Is(err, c.ends) {
			t.Errorf("the error is %v, not %s", err, c.want)
		}
		if got := strings.Join(*events, ", "); got != "steady ends, close second, close first" {
			t.Error(got)
		}
	}
}

// TestTasksEndTheDaemon: the daemon ends with an error that names the part if its monitor or its source ends.
func TestTasksEndTheDaemon(t *testing.T) {
	for _, c := range []struct {
		want string
		next func(context.Context) (render.Update, error)
		end  func(*kernel.Monitor) // called while the daemon runs
	}{
		{"monitor of the tables: monitor nftables: file already closed", nil, func(m *kernel.Monitor) { m.Close() }},
		{"source of Services: broken", func(context.Context) (render.Update, error) { return render.Update{}, errors.New("broken") },
			func(*kernel.Monitor) {}},
	} {
		k, err := kernel.Open()
		if err != nil {
			t.Fatal(err)
		}
		monitor, err := k.Monitor(render.Instance{}.TableIDs()...)
		if err != nil {
			t.Fatal(err)
		}
		if c.next == nil {
			c.next = func(ctx context.Context) (render.Update, error) {
				<-ctx.Done()
				return render.Update{}, ctx.Err()
			}
		}
		l := lifecycle{}
		l.owns(k)
		newDaemon(c.next, k, monitor, render.Node{}, slog.New(slog.DiscardHandler)).startTasks(&l)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		time.AfterFunc(20*time.Millisecond, func() { c.end(monitor) })
		if err := l.run(ctx); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("the daemon ends with %v, not with %s", err, c.want)
		}
		cancel()
	}
}
