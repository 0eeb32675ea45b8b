package faults

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
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
	listener int

	mu        sync.Mutex
	fault     fault
	calls     [2]int
	delivered int
	last      time.Time // of the last call
	netfilter map[string]bool
	err       error
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

// Structures of include/uapi/linux/seccomp.h.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type response struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// run decides until the process has ended.
func (s *supervisor) run() {
	for {
		poll := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if err := s.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
			continue // the process has ended, or a signal interrupted the call
		}
		s.decide(n)
	}
}

// decide answers one notification. A signal can interrupt a call that waits for the answer: then the answer fails, the call is
// made again and counts once.
func (s *supervisor) decide(n notification) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	c := receive
	if n.nr == unix.SYS_SENDTO {
		c = send
	}
	counts := s.isNetfilter(n)
	if counts && s.fault != nil {
		datagram := func() []byte { return s.memory(n.pid, n.args[1], n.args[2]) }
		if errno := s.fault(c, s.calls[c]+1, datagram); errno != 0 {
			r.flags, r.error = 0, -int32(errno)
		}
	}
	if err := s.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil {
		return
	}
	if counts {
		s.calls[c]++
		s.last = time.Now()
		if r.error != 0 {
			s.delivered++
		}
	}
}

func (s *supervisor) ioctl(request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// memory returns n bytes of the process's memory.
func (s *supervisor) memory(pid uint32, at, n uint64) []byte {
	b := make([]byte, n)
	local := []unix.Iovec{{Base: &b[0], Len: n}}
	got, err := unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(at), Len: int(n)}}, 0)
	if err != nil || got != int(n) {
		s.err = fmt.Errorf("read %d bytes of process %d: %d, %w", n, pid, got, err)
	}
	return b
}

// isNetfilter reports whether the call is on a netlink socket of the protocol NETLINK_NETFILTER.
func (s *supervisor) isNetfilter(n notification) bool {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, n.args[0]))
	inode, isSocket := strings.CutPrefix(target, "socket:[")
	if err != nil || !isSocket {
		return false
	}
	inode = strings.TrimSuffix(inode, "]")
	is, known := s.netfilter[inode]
	if !known {
		// The columns are described by the first line: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode.
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", n.pid))
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

// listenerEnv tells the program supervised at which file descriptor it hands over the listener, and programEnv which program it
// executes then.
const (
	listenerEnv = "NFPROXY_TEST_SUPERVISOR"
	programEnv  = "NFPROXY_TEST_PROGRAM"
)

// supervised is a program of the test binary: it installs the filter that asks the supervisor, hands the listener to its parent
// and becomes the program of programEnv.
func supervised() {
	if err := becomeSupervised(); err != nil {
		fmt.Fprintln(os.Stderr, "supervised:", err)
		os.Exit(1)
	}
}

func becomeSupervised() error {
	runtime.LockOSThread() // the filter is that of this thread, and then of the program
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load, K: 0}, // the number in struct seccomp_data
		{Code: equal, Jt: 2, K: unix.SYS_SENDTO},
		{Code: equal, Jt: 1, K: unix.SYS_READ},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("install filter: %w", errno)
	}
	const parent = 3 // the first of exec.Cmd.ExtraFiles
	if err := unix.Sendmsg(parent, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	unix.CloseOnExec(int(listener))
	unix.CloseOnExec(parent)
	path := os.Getenv(programEnv)
	return unix.Exec(path, append([]string{path}, os.Args[1:]...), os.Environ())
}

// acceptListener receives the listener of a process that becomes supervised.
func acceptListener(t *testing.T, socket int) *supervisor {
	t.Helper()
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("no listener: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return &supervisor{listener: fds[0], netfilter: make(map[string]bool), last: time.Now()}
}
