package supervise

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call is a system call that waits for a decision.
type Call struct {
	Number uint32
	PID    int // of the thread
	Args   [6]uint64
}

// Command returns a command that executes a program with a filter for the calls with these numbers. The program begins to execute
// when the Listener of the Handover serves, if execve(2) is one of the calls.
func Command(program string, args []string, calls ...uint32) (*exec.Cmd, *Handover, error) {
	launcher, err := exec.LookPath(Launcher)
	if err != nil {
		return nil, nil, err
	}
	numbers := make([]string, len(calls))
	for i, number := range calls {
		numbers[i] = strconv.FormatUint(uint64(number), 10)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	h := &Handover{near: pair[0], far: os.NewFile(uintptr(pair[1]), "launcher")}
	cmd := exec.Command(launcher, append([]string{strings.Join(numbers, ","), program}, args...)...)
	cmd.ExtraFiles = []*os.File{h.far}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cmd, h, nil
}

// Handover is how a Listener comes from the process that has installed its filter.
type Handover struct {
	near int
	far  *os.File
}

// Accept waits for the Listener of the command, which has been started, for at most 30 seconds. It must be called once.
func (h *Handover) Accept() (*Listener, error) {
	h.far.Close()
	defer unix.Close(h.near)
	if err := unix.SetsockoptTimeval(h.near, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	control := make([]byte, unix.CmsgSpace(4))
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) { // with SO_RCVTIMEO, any signal interrupts the call, such as that of a child that has ended (signal(7))
		_, n, _, _, err = unix.Recvmsg(h.near, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return nil, err
	}
	if len(messages) == 0 {
		return nil, errors.New("the launcher handed over no listener")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return &Listener{fds[0]}, nil
}

// Listener receives the calls of a process, and of what it executes.
type Listener struct {
	fd int
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

// Serve calls decide for each call, one at a time, in the order in which the threads of the process make them, until the process
// has ended, and closes the Listener. The call proceeds if decide returns 0. Otherwise it is not executed and returns the error.
func (l *Listener) Serve(decide func(Call) syscall.Errno) {
	defer unix.Close(l.fd)
	for {
		poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var n notification
		if !l.control(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) { // the thread has been killed meanwhile
			continue
		}
		r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := decide(Call{uint32(n.number), int(n.pid), n.args}); errno != 0 {
			r.flags, r.error = 0, -int32(errno)
		}
		l.control(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r))
	}
}

// control makes an ioctl(2) of the listener and reports whether it succeeded.
func (l *Listener) control(request uintptr, argument unsafe.Pointer) bool {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), request, uintptr(argument))
	return errno == 0
}
