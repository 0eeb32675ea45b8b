package preflight

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"nfproxy/nft/kernel"
)

// scratch opens nf_tables of a new network namespace that nobody else is in: what is loaded there sees no packet, and is
// gone when the connection is closed. It needs CAP_SYS_ADMIN; without it the error wraps os.ErrPermission.
func scratch() (*kernel.Conn, error) {
	type opened struct {
		conn *kernel.Conn
		err  error
	}
	result := make(chan opened, 1)
	go func() {
		conn, err := openApart()
		result <- opened{conn, err}
	}()
	r := <-result
	return r.conn, r.err
}

// openApart takes the calling goroutine's thread to a new namespace, opens nf_tables there, and takes it home. A thread
// that cannot be taken home stays locked, and the runtime ends it with its goroutine: nothing else ever runs on it.
func openApart() (*kernel.Conn, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	conn, err := kernel.Open()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return conn, err
}
