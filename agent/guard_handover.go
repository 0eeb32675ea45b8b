package agent

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// handoverEnv names the environment variable by which a process that executes itself again passes the number of the Guard's socket.
const handoverEnv = "NFPROXY_GUARD_SOCKET"

// HandOver prepares the Guard for the next program that this process executes: its socket stays open, so that the tables stay, and
// an environment variable holds its number. A Guard that is not claimed hands over nothing.
func (g *Guard) HandOver() error {
	if g.socket == nil {
		return nil
	}
	fd := g.socket.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("hand over the socket of tables %s: %w", guardName(g.instance), err)
	}
	return os.Setenv(handoverEnv, strconv.Itoa(int(fd)))
}

// InheritGuard returns the Guard of an Instance that the previous program of this process handed over, or one that is not claimed.
func InheritGuard(i render.Instance) *Guard {
	text, handedOver := os.LookupEnv(handoverEnv)
	os.Unsetenv(handoverEnv)
	fd, err := strconv.Atoi(text)
	if !handedOver || err != nil || !ownsGuard(fd, i) {
		return NewGuard(i)
	}
	unix.CloseOnExec(fd)
	return &Guard{instance: i, socket: os.NewFile(uintptr(fd), guardName(i))}
}

// ownsGuard reports whether a file descriptor is the netlink socket that owns the tables of the Guard of
// an Instance.
func ownsGuard(fd int, i render.Instance) bool {
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	socket, ok := addr.(*unix.SockaddrNetlink)
	if !ok || socket.Pid == 0 {
		return false
	}
	c, err := kernel.Open()
	if err != nil {
		return false
	}
	defer c.Close()
	tables, err := guardTables(c, i)
	if err != nil {
		return false
	}
	for id, owner := range tables {
		if id.Name == guardName(i) && owner == socket.Pid {
			return true
		}
	}
	return false
}
