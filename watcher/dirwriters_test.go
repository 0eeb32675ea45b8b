package watcher

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"nfproxy/render"
)

// TestDirWaitsForWriter: a file is read when its writer closes it and not before.
func TestDirWaitsForWriter(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("b", "10.96.0.2"))
	})
	f, err := os.Create(filepath.Join(d.path, "a.yaml"))
	d.must(err)
	d.quiet()
	_, err = f.WriteString(serviceYAML("a", "10.96.0.1"))
	d.must(err)
	poke(d.dir.watch.wake) // a spurious wake-up
	d.quiet()
	_, err = f.WriteString("---\n" + serviceYAML("c", "10.96.0.3"))
	d.must(err)
	d.must(f.Close())
	update, err := d.next(patience)
	d.must(err)
	if len(update.Services) != 1 || len(update.Removed) != 1 {
		t.Errorf("the change did not arrive in one Update: %v", update)
	}
	d.until("a "+noEndpoint, "c "+noEndpoint)

	f, err = os.Create(filepath.Join(d.path, "new.yaml")) // the same for a new file
	d.must(err)
	d.quiet()
	_, err = f.WriteString(serviceYAML("new", "10.96.0.4"))
	d.must(err)
	d.quiet()
	d.must(f.Close())
	d.until("a "+noEndpoint, "c "+noEndpoint, "new "+noEndpoint)
}

// TestDirWaitsForNextWriter: a file is not read while it is open for writing, even if an event says that an earlier writer
// closed it.
func TestDirWaitsForNextWriter(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("b", "10.96.0.2"))
	f, err := os.Create(filepath.Join(d.path, "a.yaml"))
	d.must(err)
	d.must(os.Mkdir(filepath.Join(d.path, "..data"), 0o755))
	d.write("z.yaml", serviceYAML("z", "10.96.0.9"))
	d.until("a "+noEndpoint, "z "+noEndpoint)
	_, err = f.WriteString(serviceYAML("c", "10.96.0.3"))
	d.must(err)
	d.must(f.Close())
	d.until("c "+noEndpoint, "z "+noEndpoint)
	d.logged(1, "file is open for writing", "a.yaml")
}

// TestDirFirstReadWaitsForWriter: the first Update waits for a file that is open for writing. Without its objects the Update
// would remove rules from the kernel.
func TestDirFirstReadWaitsForWriter(t *testing.T) {
	path := t.TempDir()
	f, err := os.Create(filepath.Join(path, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	dir, err := NewDir(path, render.Node{Name: "n1"}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if update, err := dir.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Next returned before the file was closed: %v, %v", update, err)
	}
	if _, err := f.WriteString(serviceYAML("a", "10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	update, err := dir.Next(context.Background())
	if err != nil || len(update.Services) != 1 {
		t.Errorf("first Update: %v, %v", update, err)
	}
}
