package deploy

import (
	"encoding/json"
	"maps"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemCalls are the system calls that nfproxy and Go's runtime make, fewer than a container runtime's default profile allows.
var systemCalls = map[string]uintptr{
	"accept4": unix.SYS_ACCEPT4, "bind": unix.SYS_BIND, "brk": unix.SYS_BRK, "clock_gettime": unix.SYS_CLOCK_GETTIME,
	"clone": unix.SYS_CLONE, "close": unix.SYS_CLOSE, "connect": unix.SYS_CONNECT, "epoll_create1": unix.SYS_EPOLL_CREATE1,
	"epoll_ctl": unix.SYS_EPOLL_CTL, "epoll_pwait": unix.SYS_EPOLL_PWAIT, "eventfd2": unix.SYS_EVENTFD2,
	"execve": unix.SYS_EXECVE, "exit": unix.SYS_EXIT, "exit_group": unix.SYS_EXIT_GROUP, "faccessat2": unix.SYS_FACCESSAT2,
	"fcntl": unix.SYS_FCNTL, "fstat": unix.SYS_FSTAT, "futex": unix.SYS_FUTEX, "getdents64": unix.SYS_GETDENTS64,
	"getpeername": unix.SYS_GETPEERNAME, "getpid": unix.SYS_GETPID, "getrandom": unix.SYS_GETRANDOM,
	"getsockname": unix.SYS_GETSOCKNAME, "getsockopt": unix.SYS_GETSOCKOPT, "gettid": unix.SYS_GETTID,
	"inotify_add_watch": unix.SYS_INOTIFY_ADD_WATCH, "inotify_init1": unix.SYS_INOTIFY_INIT1,
	"inotify_rm_watch": unix.SYS_INOTIFY_RM_WATCH, "listen": unix.SYS_LISTEN, "lseek": unix.SYS_LSEEK,
	"madvise": unix.SYS_MADVISE, "mincore": unix.SYS_MINCORE, "mmap": unix.SYS_MMAP, "mprotect": unix.SYS_MPROTECT,
	"munmap": unix.SYS_MUNMAP, "nanosleep": unix.SYS_NANOSLEEP, "newfstatat": unix.SYS_NEWFSTATAT, "openat": unix.SYS_OPENAT,
	"pipe2": unix.SYS_PIPE2, "prctl": unix.SYS_PRCTL, "pread64": unix.SYS_PREAD64, "prlimit64": unix.SYS_PRLIMIT64,
	"read": unix.SYS_READ, "readlinkat": unix.SYS_READLINKAT, "recvfrom": unix.SYS_RECVFROM, "recvmsg": unix.SYS_RECVMSG,
	"restart_syscall": unix.SYS_RESTART_SYSCALL, "rt_sigaction": unix.SYS_RT_SIGACTION,
	"rt_sigprocmask": unix.SYS_RT_SIGPROCMASK, "rt_sigreturn": unix.SYS_RT_SIGRETURN,
	"sched_getaffinity": unix.SYS_SCHED_GETAFFINITY, "sched_yield": unix.SYS_SCHED_YIELD, "sendmsg": unix.SYS_SENDMSG,
	"sendto": unix.SYS_SENDTO, "setsockopt": unix.SYS_SETSOCKOPT, "shutdown": unix.SYS_SHUTDOWN,
	"sigaltstack": unix.SYS_SIGALTSTACK, "socket": unix.SYS_SOCKET, "splice": unix.SYS_SPLICE, "statfs": unix.SYS_STATFS, "tgkill": unix.SYS_TGKILL, "timer_create": unix.SYS_TIMER_CREATE,
	"timer_delete": unix.SYS_TIMER_DELETE, "timer_settime": unix.SYS_TIMER_SETTIME, "uname": unix.SYS_UNAME, "write": unix.SYS_WRITE,
}

// newNamespaces are the flags of clone(2) that the default profiles forbid.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filterSystemCalls makes all calls but systemCalls fail with EPERM in this thread, as the default profiles do (seccomp(2)).
// The offsets are those of struct seccomp_data: number, architecture, two words of instruction pointer, arguments.
func filterSystemCalls() error {
	const load, equal, set, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	refuse := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	program := []unix.SockFilter{
		{Code: load, K: 4}, {Code: equal, Jt: 1, K: architecture()}, refuse,
		{Code: load, K: 0}, {Code: equal, Jf: 3, K: unix.SYS_CLONE}, {Code: load, K: 16}, {Code: set, Jf: 1, K: newNamespaces}, refuse,
		{Code: load, K: 0},
	}
	for _, number := range append(slices.Collect(maps.Values(systemCalls)), archPrctl) {
		program = append(program, unix.SockFilter{Code: equal, Jf: 1, K: uint32(number)}, allow)
	}
	program = append(program, refuse)
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
}

// archPrctl is the number of arch_prctl(2), which only amd64 has. On arm64 no call has this number.
const archPrctl = 158

func architecture() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

// TestSystemCalls: a container runtime's default profile allows every call of systemCalls without conditions. The profile is
// that of podman and CRI-O, which comes with buildah.
func TestSystemCalls(t *testing.T) {
	text, err := os.ReadFile("/usr/share/containers/seccomp.json")
	if err != nil {
		t.Fatalf("%v: make tools installs it", err)
	}
	var profile struct {
		Syscalls []struct {
			Names              []string
			Action             string
			Args               []any
			Includes, Excludes struct{ Caps, Arches []string }
		}
	}
	if err := json.Unmarshal(text, &profile); err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"socket": true} // allowed except for NETLINK_AUDIT, which nfproxy does not open
	for _, rule := range profile.Syscalls {
		if rule.Action == "SCMP_ACT_ALLOW" && len(rule.Args)+len(rule.Includes.Caps)+len(rule.Includes.Arches)+len(rule.Excludes.Caps) == 0 {
			for _, name := range rule.Names {
				allowed[name] = true
			}
		}
	}
	for name := range systemCalls {
		if !allowed[name] {
			t.Errorf("the default profile does not allow %s", name)
		}
	}
}
