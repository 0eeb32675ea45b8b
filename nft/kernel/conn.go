package kernel

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn talks to the nf_tables of one network namespace. It must not be used by two goroutines at once.
type Conn struct {
	nl    *netlink.Conn
	raw   syscall.RawConn
	seq   uint32
	in    []byte
	out   message // a request
	spare []byte  // the last batch's buffer
}

// receiveBuffer holds the errors of a refused batch: without room for them the kernel reports ENOBUFS instead.
const receiveBuffer = 4 << 20

// Open opens a connection to the calling thread's network namespace. Without the privilege to change it, Open fails
// with an error that wraps os.ErrPermission.
func Open() (*Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{nl: nl, in: make([]byte, 128<<10)}
	if err := c.setUp(); err != nil {
		nl.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn) setUp() (err error) {
	if c.raw, err = c.nl.SyscallConn(); err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	// Errors say where in the message the fault is, and do not repeat the message.
	for _, o := range []netlink.ConnOption{netlink.ExtendedAcknowledge, netlink.CapAcknowledge} {
		if err := c.nl.SetOption(o, true); err != nil {
			return fmt.Errorf("set netlink option: %w", err)
		}
	}
	if err := c.nl.SetReadBuffer(receiveBuffer); err != nil {
		return fmt.Errorf("set netlink receive buffer: %w", err)
	}
	// The kernel checks the privilege before anything else (nfnetlink_rcv in net/netfilter/nfnetlink.c).
	if _, err := c.Generation(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// Close closes the connection. What was applied stays.
func (c *Conn) Close() error { return c.nl.Close() }

// send hands the bytes to the kernel in one datagram. The kernel works on it before send returns.
func (c *Conn) send(b []byte) error {
	var err error
	werr := c.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(err, werr)
}

// receive reads one datagram into c.in. Without wait it returns nil when there is none.
func (c *Conn) receive(wait bool) (datagram []byte, err error) {
	n := 0
	rerr := c.raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), c.in, unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return !wait || !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	if errors.Is(err, unix.EAGAIN) {
		return nil, rerr
	}
	if err := errors.Join(err, rerr); err != nil {
		return nil, err
	}
	return c.in[:n], nil
}

// errInterrupted is a dump during which somebody changed something.
var errInterrupted = errors.New("the ruleset changed during the dump")

// request sends the message that fill writes and hands every answer to each, until the kernel says it is done. What
// each gets is overwritten by the next answer.
func (c *Conn) request(kind uint16, flags uint16, family uint8, fill func(*message), each func(body []byte) error) error {
	c.seq++
	c.out.buf = c.out.buf[:0]
	c.out.begin(nftMessage(kind), unix.NLM_F_REQUEST|flags, c.seq, family, 0)
	if fill != nil {
		fill(&c.out)
	}
	c.out.end()
	if err := c.send(c.out.buf); err != nil {
		return err
	}
	// The rest of the answers is read whatever happens: they must not be taken for those of the next request.
	var failed error
	for {
		b, err := c.receive(true)
		if err != nil {
			return err
		}
		done, err := c.answers(b, each)
		if failed == nil && err != nil {
			failed, each = err, func([]byte) error { return nil }
		}
		if done {
			return failed
		}
	}
}

// answers goes through the messages of a datagram. done says that the last answer of the request is among them.
func (c *Conn) answers(b []byte, each func([]byte) error) (done bool, err error) {
	for h, body := range messages(b) {
		if h.seq != c.seq {
			continue
		}
		if h.flags&unix.NLM_F_DUMP_INTR != 0 {
			err = errInterrupted
		}
		switch {
		case h.kind == unix.NLMSG_ERROR || h.kind == unix.NLMSG_DONE && len(body) >= 4:
			if code := int32(nativeUint32(body)); code != 0 {
				err = syscall.Errno(-code)
			}
			return true, err
		case h.kind == unix.NLMSG_DONE:
			return true, err
		case err == nil:
			err = each(body[nfgenLen:])
		}
	}
	return false, err
}

// nftMessage is the netlink type of a message of nf_tables.
func nftMessage(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// Generation returns the number of the namespace's ruleset. Any commit, of anybody, changes it.
func (c *Conn) Generation() (uint32, error) {
	var gen uint32
	err := c.request(unix.NFT_MSG_GETGEN, unix.NLM_F_ACK, unix.AF_UNSPEC, nil, func(body []byte) error {
		for kind, b := range attributes(body) {
			if kind == unix.NFTA_GEN_ID {
				gen = uint32(number(b))
			}
		}
		return nil
	})
	return gen, err
}
