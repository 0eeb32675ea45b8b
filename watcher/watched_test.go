package watcher

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/logtest"
	"nfproxy/render"
)

// patience limits the wait for an expected Update.
const patience = 30 * time.Second

// source is a Dir or an API.
type source interface {
	Next(context.Context) (render.Update, error)
	Close() error
}

// watched is a source and the sum of its Updates so far.
type watched struct {
	*testing.T
	source source
	log    *logtest.Buffer
	state  map[string][]string
	last   render.Update
}

func newWatched(t *testing.T, s source, log *logtest.Buffer) *watched {
	return &watched{T: t, source: s, log: log, state: map[string][]string{}}
}

// next takes an Update and applies it to the state.
func (w *watched) next(timeout time.Duration) (render.Update, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	update, err := w.source.Next(ctx)
	if err == nil {
		w.last = update
		if ago := time.Since(update.Seen); ago < 0 || ago > time.Minute {
			w.Errorf("Update.Seen is %v ago", ago)
		}
	}
	for _, s := range update.Services {
		w.state[s.String()] = brief(s)
	}
	for _, name := range update.Removed {
		delete(w.state, name.String())
	}
	return update, err
}

// until takes Updates until the state consists of the Services, given as "name portname port/protocol endpoints".
func (w *watched) until(want ...string) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		diff := cmp.Diff(want, w.services(), compare)
		if diff == "" {
			return
		}
		if _, err := w.next(time.Until(deadline)); err != nil {
			w.Fatalf("%v; (-want +got):\n%s\nlog:\n%s", err, diff, strings.Join(w.log.Lines(), ""))
		}
	}
}

func (w *watched) services() []string {
	var all []string
	for name, lines := range w.state {
		if name == "default/kubernetes" {
			continue // the API server's own
		}
		all = append(all, strings.TrimPrefix(name, "default/")+" "+strings.Join(lines[1:], "; "))
	}
	slices.Sort(all)
	return all
}

func (w *watched) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// logged fails unless the given number of log lines contains all the words.
func (w *watched) logged(times int, words ...string) {
	w.Helper()
	if got := w.log.Lines(words...); len(got) != times {
		w.Errorf("%d lines with %q, want %d; log:\n%s", len(got), words, times, strings.Join(w.log.Lines(), ""))
	}
}
