package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/render"
)

func TestNewDirErrors(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	for _, path := range []string{file, file + "/none", filepath.Join(t.TempDir(), "none")} {
		if d, err := NewDir(path, render.Node{}, log); err == nil {
			_ = d.Close()
			t.Errorf("NewDir(%s) returned no error", path)
		}
	}
}

func TestDirFirstRead(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, nil)
	d.until()
	d = newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+sliceYAML("a-1", "a", "10.1.0.1"))
		writeFile(t, filepath.Join(path, "b.yml"), serviceYAML("b", "10.96.0.2"))
		writeFile(t, filepath.Join(path, "c.json"), `{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"clusterIP":"10.96.0.3"}}`)
		writeFile(t, filepath.Join(path, ".d.yaml"), serviceYAML("d", "10.96.0.4"))
		writeFile(t, filepath.Join(path, "e.txt"), serviceYAML("e", "10.96.0.5"))
		if err := os.Mkdir(filepath.Join(path, "f.yaml"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	if diff := cmp.Diff([]string{"a " + oneEndpoint, "b " + noEndpoint, "c "}, d.services()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d.log.Lines("level=WARN") != nil || d.log.Lines("level=ERROR") != nil {
		t.Errorf("log:\n%s", d.log.Lines())
	}
}

func TestDirFollowsFiles(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, nil)
	d.write("a.yaml", serviceYAML("a", "10.96.0.1"))
	d.until("a " + noEndpoint)
	d.write("a-1.yaml", sliceYAML("a-1", "a", "10.1.0.1"))
	d.until("a " + oneEndpoint)
	d.write("a-1.yaml", sliceYAML("a-1", "a", "10.1.0.1", "10.1.0.2")) // in place
	d.until("a " + oneEndpoint + " 10.1.0.2:8080")
	d.write(".new", sliceYAML("a-1", "a", "10.1.0.1"))
	d.must(os.Rename(filepath.Join(d.path, ".new"), filepath.Join(d.path, "a-1.yaml")))
	d.until("a " + oneEndpoint)
	d.must(os.Rename(filepath.Join(d.path, "a-1.yaml"), filepath.Join(d.path, "a-2.yaml"))) // only the name changes
	d.quiet()
	d.must(os.Rename(filepath.Join(d.path, "a-2.yaml"), filepath.Join(d.path, "a-2.bak")))
	d.until("a " + noEndpoint)
	d.remove("a.yaml")
	d.until()
}

func TestDirReadsLinks(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, nil)
	outside := t.TempDir()
	writeFile(t, filepath.Join(outside, "a"), serviceYAML("a", "10.96.0.1"))
	d.must(os.Symlink(filepath.Join(outside, "a"), filepath.Join(d.path, "a.yaml")))
	d.until("a " + noEndpoint)
	writeFile(t, filepath.Join(outside, "b"), serviceYAML("b", "10.96.0.2"))
	d.must(os.Link(filepath.Join(outside, "b"), filepath.Join(d.path, "b.yaml")))
	d.must(os.Remove(filepath.Join(outside, "b"))) // now its link count is 1, like that of a new file
	d.until("a "+noEndpoint, "b "+noEndpoint)
}

// TestDirConfigMap: an update of a ConfigMap volume is noticed. Its files are symlinks through ..data, and an update replaces
// ..data by a rename.
func TestDirConfigMap(t *testing.T) {
	t.Parallel()
	publish := func(t testing.TB, path, version, text string) {
		t.Helper()
		for _, err := range []error{
			os.Mkdir(filepath.Join(path, version), 0o755),
			os.WriteFile(filepath.Join(path, version, "a.yaml"), []byte(text), 0o644),
			os.Symlink(version, filepath.Join(path, "..data_tmp")),
			os.Rename(filepath.Join(path, "..data_tmp"), filepath.Join(path, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	d := newDirTester(t, func(path string) {
		publish(t, path, "..1", serviceYAML("a", "10.96.0.1"))
		if err := os.Symlink("..data/a.yaml", filepath.Join(path, "a.yaml")); err != nil {
			t.Fatal(err)
		}
	})
	d.until("a " + noEndpoint)
	publish(t, d.path, "..2", serviceYAML("b", "10.96.0.2"))
	d.until("b " + noEndpoint)
	d.must(os.RemoveAll(filepath.Join(d.path, "..1")))
	d.quiet()
}

// TestDirRename: renaming a file never removes its objects, even if the two events are read separately.
func TestDirRename(t *testing.T) {
	d := newDirTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	names := []string{"a.yaml", "b.yaml"}
	for i := range 200 {
		d.must(os.Rename(filepath.Join(d.path, names[i%2]), filepath.Join(d.path, names[(i+1)%2])))
		if update, err := d.next(time.Millisecond); err == nil {
			t.Fatalf("rename %d: unexpected Update: %v", i, update)
		}
	}
	d.quiet()
}

// TestDirAnyOrder: the result does not depend on the distribution of the objects over files.
func TestDirAnyOrder(t *testing.T) {
	t.Parallel()
	var texts []string
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		texts = append(texts, serviceYAML(name, fmt.Sprintf("10.96.0.%d", i+1)),
			sliceYAML(name+"-1", name, "10.1.0.3", "10.1.0.1"), sliceYAML(name+"-2", name, "10.1.0.2", "10.1.0.1"))
	}
	var want []string
	for range 4 {
		rand.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
		d := newDirTester(t, func(path string) {
			for i, text := range texts {
				writeFile(t, filepath.Join(path, fmt.Sprintf("%02d.yaml", i)), text)
			}
		})
		if want == nil {
			want = d.services()
		}
		if diff := cmp.Diff(want, d.services()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

func TestDirNextEndsWithContext(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, nil)
	if _, err := d.next(10 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
}

// TestDirClose: Close leaves no goroutine and no descriptor behind and wakes Next, also if the directory is gone.
func TestDirClose(t *testing.T) {
	checkLeaks := noLeaks(t)
	for i := range 20 {
		path := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		d, err := NewDir(path, render.Node{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // the watch is gone and events are pending
			writeFile(t, filepath.Join(path, "a.yaml"), "")
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		result := make(chan error)
		go func() {
			_, err := d.Next(context.Background())
			result <- err
		}()
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Next after Close: error %v, want %v", err, os.ErrClosed)
		}
	}
	checkLeaks()
}
