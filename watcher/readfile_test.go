package watcher

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadWholeRefuses(t *testing.T) {
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
		name  string
		whole bool
		want  error
	}{
		{"busy", true, errBusy},
		{"busy", false, errBusy},
		{"empty", true, nil},
		{"empty", false, errNotYet},
		{"fifo", true, errNotRegular}, // and it does not wait for somebody to write
		{".", true, errNotRegular},
		{"none", true, os.ErrNotExist},
	} {
		if _, err := readWhole(path(tt.name), tt.whole); !errors.Is(err, tt.want) {
			t.Errorf("%s, whole %v: error is %v, want %v", tt.name, tt.whole, err, tt.want)
		}
	}
}

// A writer that comes while a file is read waits, and the signal that the kernel sends us does no harm.
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
		t.Skip("this file system has no leases: ", err)
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
