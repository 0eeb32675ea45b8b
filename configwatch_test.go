package main

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

// TestWatchConfig edits a file as the mount of a ConfigMap changes: a link behind a link is swapped.
func TestWatchConfig(t *testing.T) {
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
		changed := watchConfig(ctx, path, []byte("one"), logTo(&log), func(file []byte) (edition, error) {
			if loads++; string(file) == "bad" {
				return edition{}, errors.New("it is\nbad")
			}
			return edition{settings: settings{logFormat: string(file)}}, nil
		})
		expect := func(want string) {
			t.Helper()
			got := ""
			select {
			case e := <-changed:
				got = e.settings.logFormat
			case <-time.After(10 * time.Second):
			}
			if got != want {
				t.Errorf("%q came, not %q", got, want)
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
		expect("two") // it is not what was read last
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
		want := `level=ERROR msg="the changed configuration is not used; what was before stays" file=PATH error="it is bad"
level=ERROR msg="the configuration cannot be read; what was before stays" file=PATH error="open PATH: no such file or directory"
`
		if got := strings.ReplaceAll(log.String(), path, "PATH"); got != want {
			t.Errorf("log:\n%swant:\n%s", got, want)
		}
		if loads != 4 {
			t.Errorf("the file was taken for changed %d times, not 4", loads)
		}
	})
}

// TestWatchConfigHalfWritten: what is written piece by piece counts when it is whole.
func TestWatchConfigHalfWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := configWatch{path: path, log: logTo(new(strings.Builder))}
	for range 5 {
		if _, err := f.WriteString("more "); err != nil {
			t.Fatal(err)
		}
		if w.look() {
			t.Fatalf("%q counts", w.known)
		}
	}
	if !w.look() || string(w.known) != strings.Repeat("more ", 5) || w.look() {
		t.Errorf("%q", w.known)
	}
}

// TestFollow: what can be changed while running is, with what there is to warn of; for the rest there is a new start.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		level := new(slog.LevelVar)
		changed := make(chan edition)
		ctx, cancel := context.WithCancel(t.Context())
		old := usual()
		old.configFile = "conf"
		anew := make(chan bool)
		start := func() { anew <- follow(ctx, old, changed, level, logTo(&log)) }

		go start()
		louder := old
		louder.verbosity = 4
		changed <- edition{louder, []warning{{what: "has no meaning here", setting: "portRange", file: "conf"}}}
		synctest.Wait()
		if level.Level() != slog.LevelDebug {
			t.Errorf("the level is %s", level)
		}
		other := louder
		other.healthz, other.conntrack.min = "", 1
		changed <- edition{other, []warning{{what: "has no meaning here", setting: "portRange", file: "conf"}}}
		if !<-anew {
			t.Error("no new start")
		}
		go start()
		cancel()
		if <-anew {
			t.Error("a new start after the end")
		}
		want := `level=WARN msg="has no meaning here" setting=portRange file=conf
level=INFO msg=changed file=conf setting=logging.verbosity value=4
level=INFO msg="starting anew for a changed configuration" file=conf settings="[healthzBindAddress conntrack]"
`
		if log.String() != want {
			t.Errorf("log:\n%swant:\n%s", log.String(), want)
		}
	})
}
