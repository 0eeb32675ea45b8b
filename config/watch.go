package config

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"time"
)

// readInterval is the time between two reads of the file of --config.
const readInterval = time.Second

// Edition is the result of loading a changed file.
type Edition struct {
	Settings Settings
	Warnings []Warning
}

// Watch loads the file at path whenever its content changes, and sends the result, until ctx ends. known is the content that
// the caller has loaded before. An error of load, and a file that cannot be read, is logged; then nothing is sent.
//
// Watch reads the file once a second instead of using inotify. That works alike for a file, for a symlink and for a
// ConfigMap volume, in which a symlink on the path is replaced. Content is used when two consecutive reads agree, so that a
// file is not loaded while it is written.
func Watch(ctx context.Context, path string, known []byte, log *slog.Logger, load func([]byte) (Edition, error)) <-chan Edition {
	changed := make(chan Edition)
	go func() {
		w := watchedFile{path: path, known: known, last: known, log: log}
		tick := time.NewTicker(readInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if !w.changed() {
				continue
			}
			e, err := load(w.known)
			if err != nil {
				log.Error("the changed configuration is invalid; the previous one stays in use", "file", path, "error", oneLine(err))
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

// watchedFile is a file that is read again and again.
type watchedFile struct {
	path string
	// known is the content that has been loaded, last the content of the last read.
	known, last []byte
	missing     bool
	log         *slog.Logger
}

// changed reads the file and reports whether it has new content to load, which it stores in w.known.
func (w *watchedFile) changed() bool {
	now, err := os.ReadFile(w.path)
	if err != nil {
		if !w.missing {
			w.log.Error("the configuration cannot be read; the previous one stays in use", "file", w.path, "error", err)
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
