//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace, held by a file descriptor. It exists as
// long as the descriptor is open, a socket belongs to it, or a process or
// thread is in it (network_namespaces(7)). Its methods may be used
// concurrently.
type Namespace struct {
	file *os.File
	made bool // created by this package, here or in Run; the package changes no other namespace
}

// Current returns the network namespace of the calling thread. That is the
// namespace of the process, unless the caller runs in Do.
func Current() (*Namespace, error) {
	file, err := open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	return &Namespace{file: file, made: madeByRun(file)}, nil
}

// NewNamespace creates a network namespace without a name, whose only link,
// loopback, is up. It needs CAP_SYS_ADMIN, which a process started by Run has.
func NewNamespace() (*Namespace, error) {
	var file *os.File
	unshare := func() error { return unix.Unshare(unix.CLONE_NEWNET) }
	err := onThread(unshare, func() (err error) {
		file, err = open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	n := &Namespace{file: file, made: true}
	if err := n.RaiseLoopback(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Do runs f in a goroutine of its own, on a thread that is in n, and returns
// the error of f or the reason why f did not run. Goroutines that f starts do
// not run in n. If f ends its goroutine (runtime.Goexit), Do returns an error.
func (n *Namespace) Do(f func() error) error { return onThread(n.enter, f) }

// Fd returns the file descriptor that holds n, or -1 after Close.
func (n *Namespace) Fd() int { return int(n.file.Fd()) }

// Close closes the file descriptor that holds n. Sockets in n keep working and
// keep it alive. Closing it twice is not an error.
func (n *Namespace) Close() error {
	if err := n.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// enter moves the calling thread into n. SyscallConn's Control prevents that
// the descriptor is closed, and its number reused, meanwhile.
func (n *Namespace) enter() error {
	conn, err := n.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	var refused error
	err = conn.Control(func(fd uintptr) { refused = unix.Setns(int(fd), unix.CLONE_NEWNET) })
	if err := errors.Join(err, refused); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// onThread runs move and then f on a locked thread, in a new goroutine.
func onThread(move, f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine")
		defer func() { result <- err }()
		home, moved := depart(move)
		if moved != nil {
			err = moved
			return
		}
		defer comeBack(home)
		err = f()
	}()
	return <-result
}

// depart locks the calling goroutine to its thread and runs move, which moves
// the thread to another namespace. It returns the thread's original namespace.
func depart(move func() error) (*Namespace, error) {
	runtime.LockOSThread()
	home, err := Current()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	if err := move(); err != nil {
		runtime.UnlockOSThread()
		return nil, errors.Join(err, home.Close())
	}
	return home, nil
}

// comeBack undoes depart. A thread that cannot return to its namespace stays
// locked, so the runtime ends it together with its goroutine
// (runtime.LockOSThread) and no other goroutine runs on it.
func comeBack(home *Namespace) {
	if home.enter() == nil {
		runtime.UnlockOSThread()
	}
	home.Close()
}

// RaiseLoopback sets the loopback link up.
func (n *Namespace) RaiseLoopback() error {
	routing, err := n.routing()
	if err != nil {
		return err
	}
	defer routing.Close()
	lo, err := findLink(routing, "lo")
	if err != nil {
		return err
	}
	return lo.up()
}

// routing returns a route netlink socket in n (rtnetlink(7)).
func (n *Namespace) routing() (*netlink.Handle, error) {
	var routing *netlink.Handle
	err := n.Do(func() (err error) {
		routing, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	return routing, nil
}

// open opens a namespace file.
func open(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return file, nil
}

// identity returns the device and inode numbers of a namespace, which identify
// it (ioctl_ns(2)).
func identity(ns *os.File) (string, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &stat); err != nil {
		return "", fmt.Errorf("stat network namespace: %w", err)
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino), nil
}

// isInit reports whether ns is the namespace of process 1. It returns false if
// that cannot be read, which needs ptrace access to process 1 (namespaces(7)).
func isInit(ns *os.File) bool {
	machine, err := os.Stat("/proc/1/ns/net")
	if err != nil {
		return false
	}
	stat, err := ns.Stat()
	return err == nil && os.SameFile(machine, stat)
}
