package nlmsg

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Message appends netlink messages and their attributes to one buffer (netlink(7), struct nlattr in
// include/uapi/linux/netlink.h). Each Begin is followed by the attributes and End, each Nest by the nested attributes and
// Unnest: End and Unnest fill in the length. The zero Message is empty and ready to use.
type Message struct {
	Buf   []byte
	start int // of the current message
}

// Lengths of headers in bytes, and flags in the type of an attribute.
const (
	HeaderLen    = unix.SizeofNlMsghdr // struct nlmsghdr
	NFGenLen     = 4                   // struct nfgenmsg, which follows it in all messages of netfilter
	AttrLen      = unix.SizeofNlAttr   // struct nlattr
	NestedFlag   = unix.NLA_F_NESTED
	AttrTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// Begin starts a message. kind is the message type (see Type), and resource is the res_id of struct nfgenmsg, which only
// the messages that begin and end a batch use.
func (m *Message) Begin(kind, flags uint16, seq uint32, family uint8, resource uint16) {
	m.start = len(m.Buf)
	m.Buf = append(m.Buf, 0, 0, 0, 0)
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, kind)
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, flags)
	m.Buf = binary.NativeEndian.AppendUint32(m.Buf, seq)
	m.Buf = append(m.Buf, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	m.Buf = binary.BigEndian.AppendUint16(m.Buf, resource)
}

// End ends the message that Begin started.
func (m *Message) End() {
	binary.NativeEndian.PutUint32(m.Buf[m.start:], uint32(len(m.Buf)-m.start))
}

// Nest starts a nested attribute and returns its position, for Unnest.
func (m *Message) Nest(kind uint16) int {
	at := len(m.Buf)
	m.Buf = append(m.Buf, 0, 0)
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, kind|NestedFlag)
	return at
}

// Unnest ends the nested attribute at a position.
func (m *Message) Unnest(at int) {
	binary.NativeEndian.PutUint16(m.Buf[at:], uint16(len(m.Buf)-at))
}

// Head appends the header of an attribute with a payload of n bytes. The caller appends the payload to Buf and calls Pad.
func (m *Message) Head(kind uint16, n int) {
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, uint16(AttrLen+n))
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, kind)
}

// Pad appends zeros up to the alignment of attributes, 4 bytes.
func (m *Message) Pad() {
	for len(m.Buf)%4 != 0 {
		m.Buf = append(m.Buf, 0)
	}
}

// Bytes appends an attribute with the given payload.
func (m *Message) Bytes(kind uint16, b []byte) {
	m.Head(kind, len(b))
	m.Buf = append(m.Buf, b...)
	m.Pad()
}

// String appends a string attribute, with a terminating NUL.
func (m *Message) String(kind uint16, s string) {
	m.Head(kind, len(s)+1)
	m.Buf = append(append(m.Buf, s...), 0)
	m.Pad()
}

// Uint32 appends a number in network byte order, as netfilter expects it.
func (m *Message) Uint32(kind uint16, n uint32) {
	m.Head(kind, 4)
	m.Buf = binary.BigEndian.AppendUint32(m.Buf, n)
}

// Uint16 appends a number in network byte order.
func (m *Message) Uint16(kind, n uint16) {
	m.Head(kind, 2)
	m.Buf = binary.BigEndian.AppendUint16(m.Buf, n)
	m.Pad()
}

// Uint64 appends a number in network byte order.
func (m *Message) Uint64(kind uint16, n uint64) {
	m.Head(kind, 8)
	m.Buf = binary.BigEndian.AppendUint64(m.Buf, n)
}

// Header is the header of a received message (struct nlmsghdr).
type Header struct {
	Type, Flags uint16
	Seq         uint32
}

// Messages iterates over the messages in received datagrams: their headers, and the bytes after the header. It ends at a
// malformed message.
func Messages(b []byte) iter.Seq2[Header, []byte] {
	return func(yield func(Header, []byte) bool) {
		for len(b) >= HeaderLen {
			n := int(binary.NativeEndian.Uint32(b))
			if n < HeaderLen || n > len(b) {
				return
			}
			h := Header{
				Type:  binary.NativeEndian.Uint16(b[4:]),
				Flags: binary.NativeEndian.Uint16(b[6:]),
				Seq:   binary.NativeEndian.Uint32(b[8:]),
			}
			if !yield(h, b[HeaderLen:n]) {
				return
			}
			b = b[min(Align(n), len(b)):]
		}
	}
}

// Attributes iterates over the attributes in b: their kinds, without flags, and their payloads. It ends at a malformed
// attribute.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= AttrLen {
			n := int(binary.NativeEndian.Uint16(b))
			if n < AttrLen || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&AttrTypeMask, b[AttrLen:n]) {
				return
			}
			b = b[min(Align(n), len(b)):]
		}
	}
}

// Align rounds a length up to the alignment of messages and attributes, 4 bytes.
func Align(n int) int { return (n + 3) &^ 3 }

// CString returns the payload of a string attribute, without its terminating NUL.
func CString(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		b = b[:n-1]
	}
	return string(b)
}

// Number returns a number of up to eight bytes in network byte order.
func Number(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// NativeBytes returns a number in the CPU's byte order.
func NativeBytes(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// NativeUint32 returns the number in the first four bytes of b, in the CPU's byte order.
func NativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// Type returns the type of a message of a netfilter subsystem (NFNL_SUBSYS_* in
// include/uapi/linux/netfilter/nfnetlink.h).
func Type(subsystem, kind uint16) uint16 { return subsystem<<8 | kind }
