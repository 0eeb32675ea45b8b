package supervise

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Launcher is the name of the program that Launch is: Launcher CALL,... PROGRAM [ARG...], with the numbers of the calls.
const Launcher = "launch-supervised"

// socket is the file descriptor by which the launcher hands over its listener: the first of exec.Cmd.ExtraFiles.
const socket = 3

// Launch installs a seccomp filter for this process, and for what it executes, hands the listener of the filter to the parent, and
// executes the program that its arguments name.
func Launch() {
	if err := launch(); err != nil {
		fmt.Fprintln(os.Stderr, Launcher+":", err)
		os.Exit(1)
	}
}

func launch() error {
	var calls []uint32
	for text := range strings.SplitSeq(os.Args[1], ",") {
		number, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return err
		}
		calls = append(calls, uint32(number))
	}
	runtime.LockOSThread() // the filter belongs to the thread; the others end with the execution
	listener, err := installFilter(calls)
	if err != nil {
		return fmt.Errorf("install filter: %w", err)
	}
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	unix.CloseOnExec(listener)
	unix.CloseOnExec(socket)
	return unix.Exec(os.Args[2], os.Args[2:], os.Environ())
}

// installFilter installs a filter that reports the calls, and returns its listener.
func installFilter(calls []uint32) (listener int, err error) {
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{{Code: load, K: 0}} // the number in struct seccomp_data
	for i, number := range calls {
		program = append(program, unix.SockFilter{Code: equal, Jt: uint8(len(calls) - i), K: number})
	}
	program = append(program, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF})
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// Without WAIT_KILLABLE_RECV every signal for the thread, such as those of Go's scheduler, restarts the call and reports it again.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}
