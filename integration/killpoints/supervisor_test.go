package killpoints

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
)

// launcher is the name of the program that installs the filter and executes another program: launcher DESCRIPTOR PROGRAM [ARG...].
// It writes the number of its listener to the descriptor.
const launcher = "launch-supervised"

// launch installs a seccomp filter that reports every sendto(2) and execve(2) of this process, and of what it executes, to a
// supervisor, and executes the program. Its execve waits for the supervisor too.
func launch() {
	runtime.LockOSThread() // the filter belongs to the thread; the others end with the execution
	pipe, err := strconv.Atoi(os.Args[1])
	if err != nil {
		exitWith("descriptor:", err)
	}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the call
		{Code: equal, Jt: 1, K: unix.SYS_SENDTO}, {Code: equal, Jf: 1, K: unix.SYS_EXECVE},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// Without WAIT_KILLABLE_RECV every signal for the thread, such as those of Go's scheduler, restarts the call and reports it again.
	listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		exitWith("seccomp:", errno)
	}
	if _, err := unix.Write(pipe, []byte(strconv.Itoa(int(listener))+"\n")); err != nil {
		exitWith("write:", err)
	}
	unix.CloseOnExec(pipe)
	exitWith("execute:", unix.Exec(os.Args[2], os.Args[2:], os.Environ()))
}

// notification and response are struct seccomp_notif and struct seccomp_notif_resp (include/uapi/linux/seccomp.h).
type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// supervised is a process whose calls of sendto and execve wait for the test, one at a time, in the order in which the process
// makes them in all of its threads.
type supervised struct {
	*cluster.Process
	listener int
	watching sync.WaitGroup
	once     sync.Once // of release

	mu sync.Mutex
	// sends is the number of calls of sendto since count was called, execs that of execve since the start.
	sends, execs int
	// before is called before each of these calls proceeds; it may be nil.
	before func(*supervised, call)
	last   time.Time // of the last call
}

// call is a call of a supervised process.
type call struct {
	number int32 // unix.SYS_SENDTO or unix.SYS_EXECVE
	nth    int   // of the calls with this number
}

// supervise starts a program. The process is killed when the test ends, at the latest.
func supervise(t *testing.T, before func(*supervised, call), args ...string) *supervised {
	t.Helper()
	return superviseIn(t, 0, before, args...)
}

// superviseIn starts a program in new namespaces.
func superviseIn(t *testing.T, namespaces uintptr, before func(*supervised, call), args ...string) *supervised {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path, err := exec.LookPath(launcher)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"3"}, args...)...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	s := &supervised{Process: cluster.StartProcess(t, cmd), before: before}
	w.Close()
	s.listener = s.receiveListener(t, r)
	s.watching.Go(s.watch)
	t.Cleanup(s.release)
	return s
}

// release kills the process if it is still there, and frees what belongs to it.
func (s *supervised) release() {
	s.once.Do(func() {
		s.End(syscall.SIGKILL)
		s.watching.Wait()
		unix.Close(s.listener)
	})
}

// receiveListener duplicates the launcher's listener, whose number it writes to a pipe.
func (s *supervised) receiveListener(t *testing.T, r *os.File) int {
	t.Helper()
	var line [16]byte
	n, err := r.Read(line[:])
	if err != nil {
		t.Fatalf("the launcher ended: %v\n%s", err, s.Log)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(s.Cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	listener, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// watch lets the calls proceed until the process has ended.
func (s *supervised) watch() {
	for {
		fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		switch {
		case fds[0].Revents&unix.POLLIN != 0:
			var n notification
			if !s.control(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) { // its thread was killed meanwhile
				continue
			}
			s.proceed(n)
		case fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0:
			return
		}
	}
}

// proceed counts a call, tells before of it, and lets it continue.
func (s *supervised) proceed(n notification) {
	s.mu.Lock()
	c := call{number: n.number}
	if n.number == unix.SYS_EXECVE {
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
	answer := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	s.control(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer))
}

// control makes an ioctl(2) of the listener.
func (s *supervised) control(request uintptr, arg unsafe.Pointer) (ok bool) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), request, uintptr(arg))
	return errno == 0
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
