package preflight

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"nfproxy/nft/kernel"
)

// scratch returns an nf_tables connection to a new, empty network namespace. Tables loaded there see no packets, and the
// kernel deletes the namespace when the connection is closed. It needs CAP_SYS_ADMIN; without it the error wraps
// os.ErrPermission.
func scratch() (*kernel.Conn, error) {
	type opened struct {
		conn *kernel.Conn
		err  error
	}
	result := make(chan opened, 1)
	go func() {
		conn, err := openInNewNamespace()
		result <- opened{conn, err}
	}()
	r := <-result
	return r.conn, r.err
}

// openInNewNamespace moves the calling goroutine's thread to a new network namespace, opens nf_tables there, and moves the
// thread back. If that fails, the thread stays locked: the runtime ends it with its goroutine, and no other goroutine runs
// in the wrong namespace.
func openInNewNamespace() (*kernel.Conn, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("create network namespace: %w", err)
	}
	conn, err := kernel.Open()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return conn, err
}
