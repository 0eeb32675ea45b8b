package nlmsg

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket is a netlink socket to the netfilter subsystems of one network namespace. It must not be used by two goroutines
// at once, with these exceptions: while one is in Receive, another may close the Socket, set a deadline, or join and leave
// groups.
type Socket struct {
	*netlink.Conn
	// Raw gives access to the socket's file descriptor.
	Raw syscall.RawConn
	// Seq is the sequence number of the last message sent. A caller of Send uses higher numbers and sets Seq to the last.
	Seq uint32
	in  []byte
	out Message // the request of Exchange
}

// receiveBuffer is the size of the socket's receive buffer in bytes. It has room for the errors of a refused batch:
// without it the kernel reports ENOBUFS instead.
const receiveBuffer = 4 << 20

// Dial opens a socket in the calling thread's network namespace. This needs no privilege; requests do.
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
	// Errors tell the offset of the fault and do not repeat the whole message.
	for _, o := range []netlink.ConnOption{netlink.ExtendedAcknowledge, netlink.CapAcknowledge} {
		if err := s.SetOption(o, true); err != nil {
			return fmt.Errorf("set netlink socket option: %w", err)
		}
	}
	if err := s.SetReadBuffer(receiveBuffer); err != nil {
		return fmt.Errorf("set netlink receive buffer: %w", err)
	}
	return nil
}

// Send sends the bytes to the kernel in one datagram. The kernel has processed it when Send returns.
func (s *Socket) Send(b []byte) error {
	var err error
	werr := s.Raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(err, werr)
}

// largestDatagram is more than the kernel puts into one datagram: 32 kB of a listing (netlink_dump in
// net/netlink/af_netlink.c), one or two pages of anything else.
const largestDatagram = 64 << 10

// Receive returns the datagrams that have arrived, as many as fit the Socket's buffer. They are joined at the alignment of
// messages, so that Messages iterates over all of them. If none has arrived, Receive waits, or without wait returns nil.
//
// The next call of Receive or Exchange overwrites the bytes. The error wraps os.ErrClosed after Close, and
// os.ErrDeadlineExceeded after a read deadline. ENOBUFS means that datagrams were lost.
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
	case rerr != nil: // the only other reason is that the socket is closed
		return nil, fmt.Errorf("%w: %w", os.ErrClosed, rerr)
	case errors.Is(err, unix.EAGAIN) && n == 0:
		return nil, nil
	case err != nil && !errors.Is(err, unix.EAGAIN):
		return nil, err
	}
	return s.in[:n], nil
}

// ErrInterrupted is the error of a dump during which the objects changed, so that the dump may be inconsistent
// (NLM_F_DUMP_INTR).
var ErrInterrupted = errors.New("the objects changed during the dump")

// errMalformed is the error of an answer that is too short. The kernel sends none.
var errMalformed = errors.New("malformed netlink message")

// Exchange sends a request, with the attributes that fill appends, and calls each with the body of every answer, after
// struct nfgenmsg, until the kernel has finished. The next answers overwrite the body. The kernel's error is a
// syscall.Errno. fill may be nil, and each may be nil if only an acknowledgement is expected.
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
	// After an error the remaining answers are read too: else they would be in the way of the next request.
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

// answers calls each for the answers to the current request among datagrams. done reports that its last one was among
// them.
func (s *Socket) answers(b []byte, each func([]byte) error) (done bool, err error) {
	for h, body := range Messages(b) {
		if h.Seq != s.Seq {
			continue
		}
		if h.Flags&unix.NLM_F_DUMP_INTR != 0 {
			err = ErrInterrupted
		}
		switch {
		case (h.Type == unix.NLMSG_ERROR || h.Type == unix.NLMSG_DONE) && len(body) >= 4:
			if code := int32(NativeUint32(body)); code != 0 {
				err = syscall.Errno(-code)
			}
			return true, err
		case h.Type == unix.NLMSG_DONE:
			return true, err
		case h.Type == unix.NLMSG_ERROR || len(body) < NFGenLen:
			return true, errMalformed
		case err == nil:
			err = each(body[NFGenLen:])
		}
	}
	return false, err
}

// Drain discards the remaining answers of an Exchange that failed. The kernel continues a dump whenever its answers are
// read, so the dump has ended when there is nothing left to read (netlink_recvmsg in net/netlink/af_netlink.c).
func (s *Socket) Drain() error {
	for {
		if b, err := s.Receive(false); err != nil || b == nil {
			return err
		}
	}
}
