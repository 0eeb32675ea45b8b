package nlmsg

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket is a netlink socket to the netfilter subsystems of one network namespace: requests and their answers. It must
// not be used by two goroutines at once.
type Socket struct {
	*netlink.Conn
	// Raw gives access to the socket's file descriptor.
	Raw syscall.RawConn
	// Seq is the sequence number of the last message sent. Who sends messages with Send chooses later ones, and sets it.
	Seq uint32
	in  []byte
	out Message // the request of Exchange
}

// receiveBuffer holds the errors of a refused batch: without room for them the kernel reports ENOBUFS instead.
const receiveBuffer = 4 << 20

// Dial opens a socket in the calling thread's network namespace.
func Dial() (*Socket, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s := &Socket{Conn: nl, in: make([]byte, 128<<10)}
	if err := s.setUp(); err != nil {
		nl.Close()
		return nil, err
	}
	return s, nil
}

func (s *Socket) setUp() (err error) {
	if s.Raw, err = s.SyscallConn(); err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	// Errors say where in the message the fault is, and do not repeat the message.
	for _, o := range []netlink.ConnOption{netlink.ExtendedAcknowledge, netlink.CapAcknowledge} {
		if err := s.SetOption(o, true); err != nil {
			return fmt.Errorf("set netlink option: %w", err)
		}
	}
	if err := s.SetReadBuffer(receiveBuffer); err != nil {
		return fmt.Errorf("set netlink receive buffer: %w", err)
	}
	return nil
}

// Send hands the bytes to the kernel in one datagram. The kernel works on it before send returns.
func (s *Socket) Send(b []byte) error {
	var err error
	werr := s.Raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(err, werr)
}

// largestDatagram is more than the kernel puts into one: 32 kB of a listing (netlink_dump in net/netlink/af_netlink.c), a
// page or two of anything else.
const largestDatagram = 64 << 10

// Receive reads the datagrams that there are, as many as fit, into s.in, one after the other: messages are aligned, and so
// they can be gone through as if they were one. Without wait it returns nil when there is none.
func (s *Socket) Receive(wait bool) (datagrams []byte, err error) {
	n := 0
	rerr := s.Raw.Read(func(fd uintptr) bool {
		for err = nil; err == nil && n+largestDatagram <= len(s.in); {
			var got int
			if got, err = unix.Read(int(fd), s.in[n:]); err == nil { // the socket does not block
				n = Align(n + got)
			} else if errors.Is(err, unix.EINTR) {
				err = nil
			}
		}
		return n > 0 || !wait || !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case errors.Is(rerr, os.ErrDeadlineExceeded):
		return nil, rerr
	case rerr != nil: // there is one other reason
		return nil, fmt.Errorf("%w: %w", os.ErrClosed, rerr)
	case errors.Is(err, unix.EAGAIN) && n == 0:
		return nil, nil
	case err != nil && !errors.Is(err, unix.EAGAIN):
		return nil, err
	}
	return s.in[:n], nil
}

// ErrInterrupted is a dump during which somebody changed something.
var ErrInterrupted = errors.New("something changed during the dump")

// Exchange sends the message that fill writes and hands every answer to each, until the kernel says it is done. What
// each gets is overwritten by the next answer.
func (s *Socket) Exchange(kind, flags uint16, family uint8, fill func(*Message), each func(body []byte) error) error {
	s.Seq++
	s.out.Buf = s.out.Buf[:0]
	s.out.Begin(kind, unix.NLM_F_REQUEST|flags, s.Seq, family, 0)
	if fill != nil {
		fill(&s.out)
	}
	s.out.End()
	if err := s.Send(s.out.Buf); err != nil {
		return err
	}
	// The rest of the answers is read whatever happens: they must not be taken for those of the next request.
	var failed error
	for {
		b, err := s.Receive(true)
		if err != nil {
			return err
		}
		done, err := s.answers(b, each)
		if failed == nil && err != nil {
			failed, each = err, func([]byte) error { return nil }
		}
		if done {
			return failed
		}
	}
}

// answers goes through the messages of a datagram. done says that the last answer of the request is among them.
func (s *Socket) answers(b []byte, each func([]byte) error) (done bool, err error) {
	for h, body := range Messages(b) {
		if h.seq != s.Seq {
			continue
		}
		if h.flags&unix.NLM_F_DUMP_INTR != 0 {
			err = ErrInterrupted
		}
		switch {
		case h.Type == unix.NLMSG_ERROR || h.Type == unix.NLMSG_DONE && len(body) >= 4:
			if code := int32(NativeUint32(body)); code != 0 {
				err = syscall.Errno(-code)
			}
			return true, err
		case h.Type == unix.NLMSG_DONE:
			return true, err
		case err == nil:
			err = each(body[NFGenLen:])
		}
	}
	return false, err
}

// Drain reads what is left of an exchange that went wrong. Reading goes on with a dump in the kernel, so that when
// there is nothing to read it has ended (netlink_recvmsg in net/netlink/af_netlink.c).
func (s *Socket) Drain() error {
	for {
		if b, err := s.Receive(false); err != nil || b == nil {
			return err
		}
	}
}
