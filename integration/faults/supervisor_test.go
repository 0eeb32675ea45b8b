package faults

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/integration/supervise"
)

// call is a kind of system call on a netlink socket of netfilter.
type call int

const (
	send call = iota
	receive
)

func (c call) String() string { return [...]string{"send", "receive"}[c] }

// fault is what a supervisor does to the calls of a process: those for which fails returns an error are not executed, and return
// that error. n counts the calls of the same kind since the fault was set, from 1. datagram returns the bytes that the process
// sends.
type fault func(c call, n int, datagram func() []byte) syscall.Errno

// nth is the fault that lets one call fail.
func nth(which call, number int, errno syscall.Errno) fault {
	return func(c call, n int, _ func() []byte) syscall.Errno {
		if c == which && n == number {
			return errno
		}
		return 0
	}
}

// supervisor decides about the sends and receives of a process.
type supervisor struct {
	mu        sync.Mutex
	fault     fault
	calls     [2]int
	delivered int
	last      time.Time // of the last call
	netfilter map[string]bool
	err       error
}

func newSupervisor(f fault) *supervisor {
	s := &supervisor{netfilter: make(map[string]bool)}
	s.set(f)
	return s
}

// set replaces the fault, which may be nil, and begins to count anew.
func (s *supervisor) set(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.calls, s.delivered, s.last = f, [2]int{}, 0, time.Now()
}

// seen returns how many calls there were since set, how many of them failed, and for how long there was none.
func (s *supervisor) seen() (calls [2]int, delivered int, quiet time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls, s.delivered, time.Since(s.last), s.err
}

// decide decides about one call.
func (s *supervisor) decide(made supervise.Call) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isNetfilter(made) {
		return 0
	}
	c := receive
	if made.Number == unix.SYS_SENDTO {
		c = send
	}
	s.calls[c]++
	s.last = time.Now()
	if s.fault == nil {
		return 0
	}
	datagram := func() []byte { return s.memory(made.PID, made.Args[1], made.Args[2]) }
	errno := s.fault(c, s.calls[c], datagram)
	if errno != 0 {
		s.delivered++
	}
	return errno
}

// memory returns n bytes of the process's memory.
func (s *supervisor) memory(pid int, at, n uint64) []byte {
	b := make([]byte, n)
	local := []unix.Iovec{{Base: &b[0], Len: n}}
	got, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: int(n)}}, 0)
	if err != nil || got != int(n) {
		s.err = fmt.Errorf("read %d bytes of process %d: %d, %w", n, pid, got, err)
	}
	return b
}

// isNetfilter reports whether the call is on a netlink socket of the protocol NETLINK_NETFILTER.
func (s *supervisor) isNetfilter(c supervise.Call) bool {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.PID, c.Args[0]))
	inode, isSocket := strings.CutPrefix(target, "socket:[")
	if err != nil || !isSocket {
		return false
	}
	inode = strings.TrimSuffix(inode, "]")
	is, known := s.netfilter[inode]
	if !known {
		// The columns are described by the first line: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", c.PID))
		if err != nil {
			s.err = err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[9] == inode {
				is = f[1] == fmt.Sprint(unix.NETLINK_NETFILTER)
			}
		}
		s.netfilter[inode] = is
	}
	return is
}
