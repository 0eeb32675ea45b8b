package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMonitorRejoins: if the Monitor cannot join its group again after a pause, Apply returns an error until it has joined. Then
// the Monitor reports that it missed changes.
func TestMonitorRejoins(t *testing.T) {
	m := newMonitor(t)
	c := &Conn{monitored: m.subscription}
	if err := errors.Join(m.join(), m.leave()); err != nil {
		t.Fatal(err)
	}
	for _, attempt := range []func() error{pause{conn: c}.resume, func() error { return c.Apply(nil, 0) }} {
		if err := withoutCapabilities(attempt); !errors.Is(err, os.ErrPermission) {
			t.Errorf("without the right to join: %v", err)
		}
	}
	for range 2 { // the second has nothing left to do
		if err := c.Apply(nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	end := time.AfterFunc(30*time.Second, func() { m.Close() }) // a Next that waits returns
	defer end.Stop()
	if got, err := m.Next(); err != nil || !got.Missed {
		t.Errorf("after joining again: %v, %v", got, err)
	}
}

// withoutCapabilities calls f on a thread whose effective set of capabilities is empty.
func withoutCapabilities(f func() error) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		err := unix.Capget(&header, &sets[0])
		sets[0].Effective, sets[1].Effective = 0, 0
		if err == nil {
			err = unix.Capset(&header, &sets[0])
		}
		if err != nil {
			failed <- fmt.Errorf("drop capabilities: %w", err)
			return
		}
		failed <- f()
	}()
	return <-failed
}
