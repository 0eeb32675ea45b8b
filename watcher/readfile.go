package watcher

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// errNotRegular is the error for an entry that is neither a regular file nor a symlink to one.
	errNotRegular = errors.New("not a regular file")
	// errBusy is the error for a file that a process has open for writing.
	errBusy = errors.New("open for writing")
	// errJustCreated is the error for a file that was created and not closed yet.
	errJustCreated = errors.New("just created")
)

// readComplete reads a file that no process is writing. The event IN_CLOSE_WRITE does not guarantee that: another writer may
// open the file before it is read. A read lease does: the kernel grants none while the file is open for writing, and blocks
// new writers until the file is closed here. On a file system without leases there is no such guarantee.
//
// complete is false if the creation of the file is the only known event. Such a file is read after the IN_CLOSE_WRITE that
// follows, unless it was created with its content: as a hard link to another file.
func readComplete(path string, complete bool) ([]byte, error) {
	// O_NONBLOCK keeps a FIFO from blocking the open.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	leased, err := lease(f)
	if err != nil {
		return nil, err
	}
	if !complete && (info.Size() == 0 || !leased && hardLinks(info) == 1) {
		return nil, errJustCreated
	}
	return io.ReadAll(f)
}

// lease takes a read lease on an open file; closing the file ends the lease. It returns false where no lease is available:
// on network file systems, and on files of another user without CAP_LEASE.
//
// When a writer waits for the lease, the kernel sends SIGIO, which the Go runtime ignores by default.
func lease(f *os.File) (bool, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var leaseErr error
	err = conn.Control(func(fd uintptr) {
		_, leaseErr = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK)
	})
	if err != nil {
		return false, err
	}
	if errors.Is(leaseErr, unix.EAGAIN) {
		return false, errBusy
	}
	return leaseErr == nil, nil
}

// hardLinks returns the number of names of a file.
func hardLinks(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink)
	}
	return 1
}
