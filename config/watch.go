package config

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"time"
)

// lookEvery is how often the file of --config is looked at.
const lookEvery = time.Second

// Edition is what a changed file comes to.
type Edition struct {
	Settings Settings
	Warnings []Warning
}

// Watch sends what comes of a file whenever its content is another than what is known, until ctx ends. load makes
// something of content; what it refuses, and a file that cannot be read, is logged, and what was before stays.
//
// It reads the file once a second instead of waiting for inotify: that is the same for a file, for a link, and for the
// mount of a ConfigMap, whatever is swapped on the way to it. Content counts when it was the same twice, so that nobody is
// caught writing.
func Watch(ctx context.Context, path string, known []byte, log *slog.Logger, load func([]byte) (Edition, error)) <-chan Edition {
	changed := make(chan Edition)
	go func() {
		w := watchedFile{path: path, known: known, last: known, log: log}
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if !w.look() {
				continue
			}
			e, err := load(w.known)
			if err != nil {
				log.Error("the changed configuration is not used; what was before stays", "file", path, "error", oneLine(err))
				continue
			}
			select {
			case changed <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return changed
}

// watchedFile is what is known of a file.
type watchedFile struct {
	path string
	// known was looked at, last is what was read last.
	known, last []byte
	missing     bool
	log         *slog.Logger
}

// look reads the file and says whether there is something new, in w.known.
func (w *watchedFile) look() bool {
	now, err := os.ReadFile(w.path)
	if err != nil {
		if !w.missing {
			w.log.Error("the configuration cannot be read; what was before stays", "file", w.path, "error", err)
		}
		w.missing = true
		return false
	}
	w.missing = false
	settled := bytes.Equal(now, w.last)
	w.last = now
	if !settled || bytes.Equal(now, w.known) {
		return false
	}
	w.known = now
	return true
}
