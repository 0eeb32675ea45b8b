//go:build linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outsideEnv names the environment variable that tells the child of Run the
// identity of the namespace outside. It is not a mere flag, so that a process
// that inherited the variable can tell that it is not in the sandbox.
const outsideEnv = "NFPROXY_SANDBOX_OUTSIDE"

// grace is how long a child may take to end after SIGTERM.
const grace = 5 * time.Second

// Inside reports whether this process runs in a namespace that Run created.
func Inside() bool {
	ns, err := open("/proc/self/ns/net")
	if err != nil {
		return false
	}
	defer ns.Close()
	return madeByRun(ns)
}

// madeByRun reports whether ns belongs to a sandbox that Run started.
func madeByRun(ns *os.File) bool {
	outside, ok := os.LookupEnv(outsideEnv)
	if !ok || outside == "" {
		return false
	}
	id, err := identity(ns)
	return err == nil && id != outside && !isInit(ns)
}

// Run runs this program again, with args, in a new network namespace, and
// waits for it. Without root's capabilities the child runs in a new user
// namespace as well, where it is root (user_namespaces(7)). It inherits the
// standard files and the environment, to which Run adds env ("NAME=value").
//
// When ctx ends, the child receives SIGTERM and, five seconds later, SIGKILL.
// It is also killed when this process dies (PR_SET_PDEATHSIG(2const)).
//
// Run returns nil if the child exits with status 0, otherwise its
// *exec.ExitError or the reason why it did not start.
func Run(ctx context.Context, env []string, args ...string) error {
	outside, err := Current()
	if err != nil {
		return err
	}
	defer outside.Close()
	id, err := identity(outside.file)
	if err != nil {
		return err
	}

	// The kernel sends the parent death signal when the thread that forked
	// ends, not the process (golang.org/issue/27505).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(append(os.Environ(), env...), outsideEnv+"="+id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = grace
	cmd.SysProcAttr = namespaces(privileged())
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s in new namespaces (see user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns): %w", os.Args[0], err)
	}
	err = cmd.Wait()
	if cmd.ProcessState != nil && cmd.ProcessState.Success() {
		return nil // Wait returns ctx.Err() if ctx has ended; the child's status decides
	}
	return err
}

// Main runs main in a sandbox: directly if this process is in one, otherwise by
// running this program again with Run. It returns the exit status. A program
// that must never touch the namespace in which it is started calls Main first;
// tests call it in TestMain.
func Main(main func() int) int {
	if Inside() {
		return main()
	}
	err := Run(context.Background(), nil, os.Args[1:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// MainWithLoopback is Main with the loopback link of the sandbox up.
func MainWithLoopback(main func() int) int {
	return Main(func() int {
		here, err := Current()
		if err == nil {
			err = here.RaiseLoopback()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return main()
	})
}

// namespaces returns the attributes of the child: its new namespaces and its parent death signal.
func namespaces(privileged bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if !privileged {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// privileged reports whether this process may create and configure a network
// namespace without a user namespace of its own (capabilities(7)).
func privileged() bool {
	const needed = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return os.Geteuid() == 0 && data[0].Effective&needed == needed
}
