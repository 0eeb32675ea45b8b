package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// lookEvery is how often the file of --config is looked at.
const lookEvery = time.Second

// edition is what a changed file comes to.
type edition struct {
	settings settings
	warnings []warning
}

// watchConfig sends what comes of a file whenever its content is another than what is known, until ctx ends. Content
// that gives no settings is reported, and what was before stays.
//
// It reads the file once a second instead of waiting for inotify: that is the same for a file, for a link, and for the
// mount of a ConfigMap, whatever is swapped on the way to it. Content counts when it was the same twice, so that nobody is
// caught writing.
func watchConfig(ctx context.Context, path string, known []byte, log *slog.Logger, load func([]byte) (edition, error)) <-chan edition {
	changed := make(chan edition)
	go func() {
		w := configWatch{path: path, known: known, last: known, log: log}
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

// configWatch is what is known of a file.
type configWatch struct {
	path string
	// known was looked at, last is what was read last.
	known, last []byte
	missing     bool
	log         *slog.Logger
}

// look reads the file and says whether there is something new, in w.known.
func (w *configWatch) look() bool {
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

// reexec starts this program anew in its place: the same process, the same arguments and environment. It returns only if
// that fails. The rules stay, the new start takes them over.
func reexec() error {
	if err := syscall.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	return nil
}
