package nlmsg

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// message appends netlink messages and their attributes to one buffer (netlink(7), struct nlattr in
// include/uapi/linux/netlink.h). The methods come in pairs, begin and end; lengths are filled in at the end.
type Message struct {
	Buf   []byte
	start int // of the message under way
}

const (
	HeaderLen    = unix.SizeofNlMsghdr
	NFGenLen     = 4 // struct nfgenmsg
	AttrLen      = unix.SizeofNlAttr
	NestedFlag   = unix.NLA_F_NESTED
	AttrTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// begin starts a message. resource is struct nfgenmsg's res_id, which batch boundaries use.
func (m *Message) Begin(kind, flags uint16, seq uint32, family uint8, resource uint16) {
	m.start = len(m.Buf)
	m.Buf = append(m.Buf, 0, 0, 0, 0)
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, kind)
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, flags)
	m.Buf = binary.NativeEndian.AppendUint32(m.Buf, seq)
	m.Buf = append(m.Buf, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	m.Buf = binary.BigEndian.AppendUint16(m.Buf, resource)
}

func (m *Message) End() {
	binary.NativeEndian.PutUint32(m.Buf[m.start:], uint32(len(m.Buf)-m.start))
}

// nest begins a nested attribute and returns where it is, for unnest.
func (m *Message) Nest(kind uint16) int {
	at := len(m.Buf)
	m.Buf = append(m.Buf, 0, 0)
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, kind|NestedFlag)
	return at
}

func (m *Message) Unnest(at int) {
	binary.NativeEndian.PutUint16(m.Buf[at:], uint16(len(m.Buf)-at))
}

// head begins an attribute of n bytes, which the caller appends, followed by pad.
func (m *Message) Head(kind uint16, n int) {
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, uint16(AttrLen+n))
	m.Buf = binary.NativeEndian.AppendUint16(m.Buf, kind)
}

// pad fills up to the alignment of attributes, 4 bytes.
func (m *Message) Pad() {
	for len(m.Buf)%4 != 0 {
		m.Buf = append(m.Buf, 0)
	}
}

func (m *Message) Bytes(kind uint16, b []byte) {
	m.Head(kind, len(b))
	m.Buf = append(m.Buf, b...)
	m.Pad()
}

// str appends a string with the NUL that NLA_STRING wants.
func (m *Message) String(kind uint16, s string) {
	m.Head(kind, len(s)+1)
	m.Buf = append(append(m.Buf, s...), 0)
	m.Pad()
}

// uint16, uint32 and uint64 append numbers in network byte order, as netfilter expects them.
func (m *Message) Uint32(kind uint16, n uint32) {
	m.Head(kind, 4)
	m.Buf = binary.BigEndian.AppendUint32(m.Buf, n)
}

func (m *Message) Uint16(kind, n uint16) {
	m.Head(kind, 2)
	m.Buf = binary.BigEndian.AppendUint16(m.Buf, n)
	m.Pad()
}

func (m *Message) Uint64(kind uint16, n uint64) {
	m.Head(kind, 8)
	m.Buf = binary.BigEndian.AppendUint64(m.Buf, n)
}

// header is a received message's.
type header struct {
	Type, flags uint16
	seq         uint32
}

// messages goes through the messages of a received datagram. body is what follows the netlink header.
func Messages(b []byte) iter.Seq2[header, []byte] {
	return func(yield func(header, []byte) bool) {
		for len(b) >= HeaderLen {
			n := int(binary.NativeEndian.Uint32(b))
			if n < HeaderLen || n > len(b) {
				return
			}
			h := header{
				Type:  binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
			}
			if !yield(h, b[HeaderLen:n]) {
				return
			}
			b = b[min(Align(n), len(b)):]
		}
	}
}

// attributes goes through the attributes in b: their kinds, without flags, and their payloads.
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

func Align(n int) int { return (n + 3) &^ 3 }

// cstring reads a NUL-terminated string.
func CString(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		b = b[:n-1]
	}
	return string(b)
}

// number reads a number of up to eight bytes in network byte order.
func Number(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// native and nativeUint32 write and read a number in the machine's byte order.
func NativeBytes(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func NativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// messageType is the type of a message of a netfilter subsystem (struct nfgenmsg, include/uapi/linux/netfilter/nfnetlink.h).
func Type(subsystem, kind uint16) uint16 { return subsystem<<8 | kind }
