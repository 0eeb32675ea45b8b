package watcher

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadCompleteErrors: files that are open for writing, just created or not regular are not read.
func TestReadCompleteErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, path("busy"), "half")
	busy, err := os.OpenFile(path("busy"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	writeFile(t, path("empty"), "")
	if err := unix.Mkfifo(path("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		complete bool
		want     error
	}{
		{"busy", true, errBusy},
		{"busy", false, errBusy},
		{"empty", true, nil},
		{"empty", false, errJustCreated},
		{"fifo", true, errNotRegular}, // the open does not wait for a writer
		{".", true, errNotRegular},
		{"none", true, os.ErrNotExist},
	} {
		if _, err := readComplete(path(tt.name), tt.complete); !errors.Is(err, tt.want) {
			t.Errorf("%s, complete %v: error %v, want %v", tt.name, tt.complete, err, tt.want)
		}
	}
}

// TestLeaseHoldsWriter: a lease makes a writer wait, and the kernel's SIGIO has no effect on the process.
func TestLeaseHoldsWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.yaml")
	writeFile(t, path, "text")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if leased, err := lease(f); err != nil || !leased {
		t.Skip("no leases on this file system: ", err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(path, nil, 0o644) }()
	for state := unix.F_RDLCK; state == unix.F_RDLCK; {
		if state, err = unix.FcntlInt(f.Fd(), unix.F_GETLEASE, 0); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := f.Stat(); err != nil || info.Size() == 0 {
		t.Errorf("the writer did not wait: %v, %v", info.Size(), err)
	}
	if err := errors.Join(f.Close(), <-written); err != nil {
		t.Error(err)
	}
}
