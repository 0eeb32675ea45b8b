package killpoints

import (
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
	"nfproxy/integration/supervise"
)

// supervised is a process whose calls of sendto and execve wait for the test, one at a time, in the order in which the process
// makes them in all of its threads.
type supervised struct {
	*cluster.Process
	watching sync.WaitGroup

	mu sync.Mutex
	// sends is the number of calls of sendto since count was called, execs that of execve since the start.
	sends, execs int
	// before is called before each of these calls proceeds; it may be nil.
	before func(*supervised, call)
	last   time.Time // of the last call
}

// call is a call of a supervised process.
type call struct {
	number uint32 // unix.SYS_SENDTO or unix.SYS_EXECVE
	nth    int    // of the calls with this number
}

// start starts a program. The process is killed when the test ends, at the latest.
func start(t *testing.T, before func(*supervised, call), args ...string) *supervised {
	t.Helper()
	return startIn(t, 0, before, args...)
}

// startIn starts a program in new namespaces.
func startIn(t *testing.T, namespaces uintptr, before func(*supervised, call), args ...string) *supervised {
	t.Helper()
	cmd, handover, err := supervise.Command(args[0], args[1:], unix.SYS_SENDTO, unix.SYS_EXECVE)
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr.Cloneflags = namespaces
	s := &supervised{Process: cluster.StartProcess(t, cmd), before: before}
	listener, err := handover.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.watching.Go(func() { listener.Serve(s.decide) })
	t.Cleanup(s.release)
	return s
}

// release kills the process if it is still there, and waits until its listener is closed.
func (s *supervised) release() {
	s.End(syscall.SIGKILL)
	s.watching.Wait()
}

// decide counts a call, tells before of it, and lets it proceed.
func (s *supervised) decide(made supervise.Call) syscall.Errno {
	s.mu.Lock()
	c := call{number: made.Number}
	if made.Number == unix.SYS_EXECVE {
		s.execs++
		c.nth = s.execs
	} else {
		s.sends++
		c.nth = s.sends
	}
	s.last = time.Now()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		before(s, c)
	}
	return 0
}

// count starts the numbering of sends anew and sets what is called before each.
func (s *supervised) count(before func(*supervised, call)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sends, s.before = 0, before
}

// executions returns the number of calls of execve.
func (s *supervised) executions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.execs
}

// sendsSoFar returns the number of sends.
func (s *supervised) sendsSoFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sends
}

// sent returns the number of sends, once the process has made none for a while.
func (s *supervised) sent() int {
	const quiet = 400 * time.Millisecond
	for {
		s.mu.Lock()
		n, idle := s.sends, time.Since(s.last)
		s.mu.Unlock()
		if idle > quiet {
			return n
		}
		time.Sleep(quiet - idle + time.Millisecond)
	}
}

// await waits until the process has ended and returns how.
func (s *supervised) await(t *testing.T) *os.ProcessState {
	t.Helper()
	select {
	case err := <-s.Done:
		s.Done <- err
	case <-time.After(20 * time.Second):
		t.Fatalf("the process does not end:\n%s", s.Log)
	}
	return s.Cmd.ProcessState
}
