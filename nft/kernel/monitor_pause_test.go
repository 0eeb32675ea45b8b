package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// TestMonitorRejoins: if the Monitor cannot join its group again after a pause, Apply returns an error until it has joined. Then
// the Monitor reports that it missed changes, and reports later ones.
func TestMonitorRejoins(t *testing.T) {
	ours := nft.TableID{Family: nft.IPv4, Name: "ours"}
	c, foreign := open(t), open(t)
	m, err := c.Monitor(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	p, err := c.pauseMonitor()
	if err != nil {
		t.Fatal(err)
	}
	for _, attempt := range []func() error{p.resume, func() error { return c.Apply(nil, 0) }} {
		if err := withoutCapabilities(attempt); !errors.Is(err, os.ErrPermission) {
			t.Errorf("without the right to join: %v", err)
		}
	}
	if err := c.Apply(nil, 0); err != nil {
		t.Fatal(err)
	}
	end := time.AfterFunc(5*time.Second, func() { m.Close() }) // a Next that waits returns
	defer end.Stop()
	if got, err := m.Next(); err != nil || !got.Missed {
		t.Errorf("after joining again: %v, %v", got, err)
	}
	if err := foreign.Apply(nft.Diff(nil, []*nft.Table{{TableID: ours}}), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Next(); err != nil || !strings.HasPrefix(got.First, "add table") {
		t.Errorf("after a change: %v, %v", got, err)
	}
}

// open returns a Conn that is closed when the test ends.
func open(t *testing.T) *Conn {
	t.Helper()
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
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
