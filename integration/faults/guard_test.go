package faults

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// unansweredGuard is the fault that lets a receive fail: the first one after the nth batch that adds a part of the guard. The daemon
// makes no other calls meanwhile.
func unansweredGuard(nth int, errno syscall.Errno) fault {
	batches, failed := 0, false
	return func(c call, _ int, datagram func() []byte) syscall.Errno {
		switch {
		case c == send && bytes.Contains(datagram(), []byte("nfproxy-guard\x00")):
			batches++
		case c == receive && batches == nth && !failed:
			failed = true
			return errno
		}
		return 0
	}
}

// TestFaultsOfGuard: whichever answer to a batch of the guard is lost, the daemon claims the guard at its next attempt. The base
// chains of the guard follow its tables in a batch of their own.
func TestFaultsOfGuard(t *testing.T) {
	for nth := 1; nth <= 2; nth++ {
		for _, errno := range errnos {
			t.Run(fmt.Sprintf("batch %d, %s", nth, name(errno)), func(t *testing.T) {
				n := newNode(t)
				defer n.stop()
				n.write(services()...)
				n.start(unansweredGuard(nth, errno))
				n.await("the first load", func(state string) bool { return strings.Contains(state, "10.96.1.5") })
				if _, failed, _, err := n.seen(); failed != 1 || err != nil {
					t.Errorf("%d receives failed, %v", failed, err)
				}
				if state := n.state(); !strings.Contains(state, "\n2 guards\n") {
					t.Errorf("no guard:\n%s", n.process.Log)
				}
			})
		}
	}
}
