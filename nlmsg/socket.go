package nlmsg

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

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
	// Traffic counts what Send and Receive have done so far.
	Traffic Traffic
	in      []byte
	out     Message // the request of Exchange
	// unread reports that not all answers to the last request have been read.
	unread bool
}

// Traffic is an amount of netlink traffic of a socket, which does not depend on the machine.
type Traffic struct {
	Sends, Receives int // system calls
	Messages        int // sent
	Sent, Received  int // bytes
}

// Add adds another amount.
func (t Traffic) Add(u Traffic) Traffic {
	return Traffic{t.Sends + u.Sends, t.Receives + u.Receives, t.Messages + u.Messages, t.Sent + u.Sent, t.Received + u.Received}
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

// A Send that fails because memory is short is repeated: sendAttempts times in all, with pauses that double from sendPause. The
// kernel has then processed nothing (netlink_sendmsg in net/netlink/af_netlink.c).
const (
	sendAttempts = 5
	sendPause    = time.Millisecond
)

// Send sends the bytes to the kernel in one datagram. The kernel has processed it when Send returns, and nothing of it if Send
// returns an error. ENOBUFS and ENOMEM mean that memory for the datagram is short.
func (s *Socket) Send(b []byte) (err error) {
	for attempt := range sendAttempts {
		if attempt > 0 {
			time.Sleep(sendPause << (attempt - 1))
		}
		if err = s.sendOnce(b); !memoryShort(err) && !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	return err
}

// sendOnce sends the bytes. After EAGAIN it does not wait for the socket to become writable: the kernel takes the datagram
// during the call, so that the socket always is.
func (s *Socket) sendOnce(b []byte) (err error) {
	s.Traffic.Sends++
	s.Traffic.Sent += len(b)
	for range Messages(b) {
		s.Traffic.Messages++
	}
	werr := s.Raw.Write(func(fd uintptr) bool {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		}
		return true
	})
	return errors.Join(err, werr)
}

// memoryShort reports whether a call failed for want of memory. A receive then may have lost datagrams.
func memoryShort(err error) bool { return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) }

// largestDatagram is more than the kernel puts into one datagram: 32 kB of a listing (netlink_dump in
// net/netlink/af_netlink.c), one or two pages of anything else.
const largestDatagram = 64 << 10

// Receive returns the datagrams that have arrived, as many as fit the Socket's buffer. They are joined at the alignment of
// messages, so that Messages iterates over all of them. If none has arrived, Receive waits, or without wait returns nil.
//
// The next call of Receive or Exchange overwrites the bytes. The error wraps os.ErrClosed after Close, and
// os.ErrDeadlineExceeded after a read deadline. ENOBUFS and ENOMEM mean that datagrams may be lost.
func (s *Socket) Receive(wait bool) (datagrams []byte, err error) {
	n := 0
	rerr := s.Raw.Read(func(fd uintptr) bool {
		for err = nil; err == nil && n+largestDatagram <= len(s.in); {
			var got int
			s.Traffic.Receives++
			if got, err = unix.Read(int(fd), s.in[n:]); err == nil { // the socket does not block
				s.Traffic.Received += got
				n = Align(n + got)
			} else if errors.Is(err, unix.EINTR) || n == 0 && wait && errors.Is(err, unix.EAGAIN) && readable(fd) {
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

// readable reports whether a datagram waits. Before Receive waits it makes sure that none does: it is woken by the next one.
func readable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// ErrInterrupted is the error of a dump during which objects changed, so that the dump may be inconsistent
// (NLM_F_DUMP_INTR). All its answers were passed on. nf_tables reports a change of any table, also of one that is not in the
// dump.
var ErrInterrupted = errors.New("the objects changed during the dump")

// errNoAnswer is the error of a request that the kernel has processed, and whose answer is lost.
var errNoAnswer = fmt.Errorf("the answer is lost: %w", unix.ENOBUFS)

// exchangeAttempts is how often Exchange sends a request whose answers are lost, and emptyReceives how often ReceiveAnswer finds no
// datagram before it takes an answer for lost: the kernel has answered when the request is sent, and each part of a dump waits when
// the one before it has been read (netlink_recvmsg in net/netlink/af_netlink.c).
const (
	exchangeAttempts = 3
	emptyReceives    = 3
)

// errMalformed is the error of an answer that is too short. The kernel sends none.
var errMalformed = errors.New("malformed netlink message")

// Exchange sends a request, with the attributes that fill appends, and calls each with the body of every answer, after
// struct nfgenmsg, until the kernel has finished. The next answers overwrite the body. The kernel's error is a
// syscall.Errno. fill may be nil, and each may be nil if only an acknowledgement is expected.
//
// If answers are lost and each has not been called, the request is sent again: it must be one that can be repeated. Otherwise
// the error is ENOBUFS or ENOMEM. What is left of the answers is never taken for those of another request.
func (s *Socket) Exchange(kind, flags uint16, family uint8, fill func(*Message), each func(body []byte) error) (err error) {
	called := false
	note := func(body []byte) error {
		called = true
		return each(body)
	}
	for range exchangeAttempts {
		if err = s.exchangeOnce(kind, flags, family, fill, note); called || !memoryShort(err) {
			return err
		}
	}
	return err
}

func (s *Socket) exchangeOnce(kind, flags uint16, family uint8, fill func(*Message), each func(body []byte) error) error {
	if s.unread {
		if err := s.discard(); err != nil {
			return err
		}
	}
	if err := s.request(kind, flags, family, fill); err != nil {
		return err
	}
	// After an error the remaining answers are read too: else they would be in the way of the next request.
	var failed error
	interrupted := false
	for {
		b, err := s.ReceiveAnswer()
		if err != nil {
			return err
		}
		a, err := s.answers(b, each)
		if failed == nil && err != nil {
			failed, each = err, func([]byte) error { return nil }
		}
		if interrupted = interrupted || a.interrupted; !a.done {
			continue
		}
		s.unread = false
		if failed == nil && interrupted {
			return ErrInterrupted
		}
		return failed
	}
}

// ExchangeAll is Exchange for n small requests of one kind in one datagram. fill appends the attributes of a request, given by its
// index, and each is called with that index. refused holds the kernel's error of each request, nil for success. Each request must be
// one that the kernel answers at once, and all answers together must fit the receive buffer. If answers are lost, err is not nil,
// and each may have been called.
func (s *Socket) ExchangeAll(n int, kind uint16, family uint8, fill func(i int, m *Message), each func(i int, body []byte)) (refused []error, err error) {
	if s.unread {
		if err := s.discard(); err != nil {
			return nil, err
		}
	}
	first := s.Seq + 1
	s.Seq += uint32(n)
	s.out.Buf = s.out.Buf[:0]
	for i := range n {
		s.out.Begin(kind, unix.NLM_F_REQUEST|unix.NLM_F_ACK, first+uint32(i), family, 0)
		fill(i, &s.out)
		s.out.End()
	}
	if err := s.Send(s.out.Buf); err != nil {
		return nil, err
	}
	s.unread = true
	refused = make([]error, n)
	for answered := 0; answered < n; {
		b, err := s.ReceiveAnswer()
		if err != nil {
			return nil, err
		}
		for h, body := range Messages(b) {
			i := h.Seq - first // sequence numbers wrap around
			switch {
			case i >= uint32(n):
			case h.Type == unix.NLMSG_ERROR && len(body) >= 4:
				if code := int32(NativeUint32(body)); code != 0 {
					refused[i] = syscall.Errno(-code)
				}
				answered++
			case len(body) < NFGenLen:
				return nil, errMalformed
			default:
				each(int(i), body[NFGenLen:])
			}
		}
	}
	s.unread = false
	return refused, nil
}

// request sends a request whose answers are then unread.
func (s *Socket) request(kind, flags uint16, family uint8, fill func(*Message)) error {
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
	s.unread = true
	return nil
}

// ReceiveAnswer is Receive for answers, which must have arrived. If none has, the error is ENOBUFS.
func (s *Socket) ReceiveAnswer() ([]byte, error) {
	for range emptyReceives {
		if b, err := s.Receive(false); err != nil || b != nil {
			return b, err
		}
	}
	return nil, errNoAnswer
}

// discard reads what is left of the answers to an Exchange that failed. As long as a dump has not ended, the kernel refuses
// another one with EBUSY (__netlink_dump_start in net/netlink/af_netlink.c). It continues a dump when a datagram is read. A dump
// for which memory was short has left none to read, so discard asks for one: the acknowledgement of a message that does nothing.
func (s *Socket) discard() error {
	if err := s.request(unix.NLMSG_NOOP, unix.NLM_F_ACK, unix.AF_UNSPEC, nil); err != nil {
		return err
	}
	for acknowledged := false; ; {
		b, err := s.ReceiveAnswer()
		if errors.Is(err, errNoAnswer) && acknowledged {
			s.unread = false
			return nil
		}
		if err != nil {
			return err
		}
		a, _ := s.answers(b, func([]byte) error { return nil })
		acknowledged = acknowledged || a.done
	}
}

// answered describes answers to the current request among received datagrams.
type answered struct {
	done        bool // the last answer was among them
	interrupted bool // an answer has the flag NLM_F_DUMP_INTR
}

// answers calls each for the answers to the current request among datagrams.
func (s *Socket) answers(b []byte, each func([]byte) error) (a answered, err error) {
	for h, body := range Messages(b) {
		if h.Seq != s.Seq {
			continue
		}
		a.interrupted = a.interrupted || h.Flags&unix.NLM_F_DUMP_INTR != 0
		switch {
		case (h.Type == unix.NLMSG_ERROR || h.Type == unix.NLMSG_DONE) && len(body) >= 4:
			if code := int32(NativeUint32(body)); code != 0 {
				err = syscall.Errno(-code)
			}
			a.done = true
			return a, err
		case h.Type == unix.NLMSG_DONE:
			a.done = true
			return a, err
		case h.Type == unix.NLMSG_ERROR || len(body) < NFGenLen:
			a.done = true
			return a, errMalformed
		case err == nil:
			err = each(body[NFGenLen:])
		}
	}
	return a, err
}
