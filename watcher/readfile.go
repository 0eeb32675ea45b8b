package watcher

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// errNotRegular is the error for an entry that is neither a file nor leads to one.
	errNotRegular = errors.New("not a regular file")
	// errBusy is the error for a file that a process has open for writing.
	errBusy = errors.New("being written")
	// errNotYet is the error for a file that was created and not closed yet.
	errNotYet = errors.New("just created")
)

// readWhole reads a file that nobody is writing. IN_CLOSE_WRITE alone cannot promise that: the next writer may have
// opened the file by the time it is read. A read lease can: the kernel grants none while the file is open for writing,
// and lets a writer wait until we close. A file system without leases has to do without.
//
// A file of which only the creation is known is left to the IN_CLOSE_WRITE that follows, unless it was created whole: a
// link to a file that has its content.
func readWhole(path string, whole bool) ([]byte, error) {
	// O_NONBLOCK: a FIFO must not hold us up.
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
	if !whole && (info.Size() == 0 || !leased && links(info) == 1) {
		return nil, errNotYet
	}
	return io.ReadAll(f)
}

// lease takes a read lease on an open file; closing the file ends it. It is false where there are no leases: on network
// file systems, and on files of another user without CAP_LEASE.
//
// If a writer comes meanwhile the kernel sends SIGIO, which the Go runtime ignores unless asked for it.
func lease(f *os.File) (bool, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var refused error
	err = conn.Control(func(fd uintptr) {
		_, refused = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK)
	})
	if err != nil {
		return false, err
	}
	if errors.Is(refused, unix.EAGAIN) {
		return false, errBusy
	}
	return refused == nil, nil
}

func links(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink)
	}
	return 1
}
