package watcher

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDirRemovedAndMadeAgain(t *testing.T) {
	t.Parallel()
	for _, how := range []struct {
		name string
		away func(string) error
	}{
		{"moved", func(path string) error { return os.Rename(path, path+".old") }},
		{"removed empty", os.Remove},
	} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			empty := how.name != "moved"
			d := newDirTester(t, func(path string) {
				if !empty {
					writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1"))
				}
			})
			d.must(how.away(d.path))
			if update, err := d.next(1500 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Next returned without a directory: %v, %v", update, err)
			}
			d.logged(1, "level=ERROR", "directory is gone")
			d.must(os.Mkdir(d.path, 0o755))
			d.write("b.yaml", serviceYAML("b", "10.96.0.2"))
			d.until("b " + noEndpoint)
			d.write("b.yaml", serviceYAML("c", "10.96.0.3")) // the new directory is watched
			d.until("c " + noEndpoint)
		})
	}
}

// TestDirReplacedUnseen: a new directory at the same path is noticed although there is no event, because the removed
// directory is still open.
func TestDirReplacedUnseen(t *testing.T) {
	t.Parallel()
	var parent string
	d := newDirTester(t, func(path string) { parent = filepath.Dir(path) })
	busy, err := os.Open(d.path)
	d.must(err)
	defer busy.Close()
	d.must(os.Remove(d.path))
	d.must(os.Mkdir(filepath.Join(parent, "manifests"), 0o755))
	d.write("a.yaml", serviceYAML("a", "10.96.0.1"))
	d.until("a " + noEndpoint)
}

func TestDirBurst(t *testing.T) {
	t.Parallel()
	const count = 2000
	d := newDirTester(t, nil)
	go func() {
		for i := range count {
			name := fmt.Sprintf("s%d", i)
			text := serviceYAML(name, fmt.Sprintf("10.96.%d.%d", i/250, i%250+1))
			if err := os.WriteFile(filepath.Join(d.path, name+".yaml"), []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
	}()
	for len(d.state) < count {
		if _, err := d.next(patience); err != nil {
			t.Fatalf("%v with %d of %d Services", err, len(d.state), count)
		}
	}
}

// TestDirReadsAllAfterManyEvents: everything is read again after half a queue of events, because the library does not report
// dropped events.
func TestDirReadsAllAfterManyEvents(t *testing.T) {
	t.Parallel()
	w := &dirWatch{limit: 100, wake: make(chan struct{}, 1)}
	for range 49 {
		w.count()
	}
	if w.take().all {
		t.Fatal("everything is marked too early")
	}
	w.count()
	if !w.take().all {
		t.Fatal("nothing is marked after half a queue of events")
	}
	w.count()
	if w.take().all {
		t.Fatal("everything is marked again after one event")
	}
}
