package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"nfproxy/nlmsg"
)

// Conn talks to the nf_tables of one network namespace. It must not be used by two goroutines at once.
type Conn struct {
	nl      *nlmsg.Socket
	spare   []byte   // the last batch's buffer
	monitor *Monitor // nil if there is none
	commits uint32   // ours so far
}

// Open opens a connection to the calling thread's network namespace. Without the privilege to change it, which is what
// most often goes wrong, the error says in one sentence how to get it, and wraps os.ErrPermission.
func Open() (*Conn, error) {
	s, err := nlmsg.Dial()
	if err != nil {
		return nil, err
	}
	c := &Conn{nl: s}
	// The kernel checks the privilege before anything else (nfnetlink_rcv in net/netfilter/nfnetlink.c).
	if _, err := c.Generation(); err != nil {
		c.Close()
		if errors.Is(err, os.ErrPermission) {
			return nil, unprivileged{}
		}
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

// Close closes the connection. What was applied stays; tables that the connection owns go.
func (c *Conn) Close() error { return c.nl.Close() }

// unprivileged is Open's error for who may not change nftables.
type unprivileged struct{}

func (unprivileged) Error() string {
	return "nftables can be read and changed only with CAP_NET_ADMIN: run as root, or grant that capability"
}

func (unprivileged) Unwrap() error { return os.ErrPermission }

// PortID is the netlink port ID of the connection's socket: no other socket of the network namespace has the same.
func (c *Conn) PortID() uint32 { return c.nl.PID() }

// request is exchange for a message of nf_tables.
func (c *Conn) request(kind, flags uint16, family uint8, fill func(*nlmsg.Message), each func(body []byte) error) error {
	return c.nl.Exchange(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, kind), flags, family, fill, each)
}

// Generation returns the number of the namespace's ruleset. Any commit, of anybody, changes it.
func (c *Conn) Generation() (uint32, error) {
	var gen uint32
	err := c.request(unix.NFT_MSG_GETGEN, unix.NLM_F_ACK, unix.AF_UNSPEC, nil, func(body []byte) error {
		for kind, b := range nlmsg.Attributes(body) {
			if kind == unix.NFTA_GEN_ID {
				gen = uint32(nlmsg.Number(b))
			}
		}
		return nil
	})
	return gen, err
}
