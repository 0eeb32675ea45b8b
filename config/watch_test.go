package config

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatch edits a file in the way of a ConfigMap volume: a symlink on the path is replaced.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "config"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(to string) {
		t.Helper()
		err := errors.Join(os.Symlink(to, filepath.Join(dir, "new")), os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "..data")))
		if err != nil {
			t.Fatal(err)
		}
	}
	put("first", "one")
	swap("first")
	path := filepath.Join(dir, "config")
	if err := os.Symlink("..data/config", path); err != nil {
		t.Fatal(err)
	}

	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		loads := 0
		changed := Watch(ctx, path, []byte("one"), logTo(&log), func(file []byte) (Edition, error) {
			if loads++; string(file) == "bad" {
				return Edition{}, errors.New("it is\nbad")
			}
			return Edition{Settings: Settings{LogFormat: string(file)}}, nil
		})
		expect := func(want string) {
			t.Helper()
			got := ""
			select {
			case e := <-changed:
				got = e.Settings.LogFormat
			case <-time.After(10 * time.Second):
			}
			if got != want {
				t.Errorf("received %q, want %q", got, want)
			}
		}
		expect("")
		put("second", "two")
		expect("")
		swap("second")
		expect("two")
		put("second", "bad")
		expect("")
		put("second", "two")
		expect("two") // the content differs from the last read
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		expect("")
		put("third", "three")
		swap("third")
		if err := os.Symlink("..data/config", path); err != nil {
			t.Fatal(err)
		}
		expect("three")
		cancel()
		synctest.Wait()
		want := `level=ERROR msg="the changed configuration is invalid; the previous one stays in use" file=PATH error="it is bad"
level=ERROR msg="the configuration cannot be read; the previous one stays in use" file=PATH error="open PATH: no such file or directory"
`
		if got := strings.ReplaceAll(log.String(), path, "PATH"); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
		if loads != 4 {
			t.Errorf("the file was loaded %d times, want 4", loads)
		}
	})
}

// TestWatchHalfWritten: a file that is written piece by piece is loaded when it no longer changes.
func TestWatchHalfWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := watchedFile{path: path, log: logTo(new(strings.Builder))}
	for range 5 {
		if _, err := f.WriteString("more "); err != nil {
			t.Fatal(err)
		}
		if w.changed() {
			t.Fatalf("loaded %q", w.known)
		}
	}
	if !w.changed() || string(w.known) != strings.Repeat("more ", 5) || w.changed() {
		t.Errorf("loaded %q", w.known)
	}
}

// logTo returns a logger without times.
func logTo(w *strings.Builder) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}
