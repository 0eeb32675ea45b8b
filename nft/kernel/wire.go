package kernel

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// message appends netlink messages and their attributes to one buffer (netlink(7), struct nlattr in
// include/uapi/linux/netlink.h). The methods come in pairs, begin and end; lengths are filled in at the end.
type message struct {
	buf   []byte
	start int // of the message under way
}

const (
	headerLen    = unix.SizeofNlMsghdr
	nfgenLen     = 4 // struct nfgenmsg
	attrLen      = unix.SizeofNlAttr
	nestedFlag   = unix.NLA_F_NESTED
	attrTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// begin starts a message. resource is struct nfgenmsg's res_id, which batch boundaries use.
func (m *message) begin(kind, flags uint16, seq uint32, family uint8, resource uint16) {
	m.start = len(m.buf)
	m.buf = append(m.buf, 0, 0, 0, 0)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, flags)
	m.buf = binary.NativeEndian.AppendUint32(m.buf, seq)
	m.buf = append(m.buf, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	m.buf = binary.BigEndian.AppendUint16(m.buf, resource)
}

func (m *message) end() {
	binary.NativeEndian.PutUint32(m.buf[m.start:], uint32(len(m.buf)-m.start))
}

// nest begins a nested attribute and returns where it is, for unnest.
func (m *message) nest(kind uint16) int {
	at := len(m.buf)
	m.buf = append(m.buf, 0, 0)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind|nestedFlag)
	return at
}

func (m *message) unnest(at int) {
	binary.NativeEndian.PutUint16(m.buf[at:], uint16(len(m.buf)-at))
}

// head begins an attribute of n bytes, which the caller appends, followed by pad.
func (m *message) head(kind uint16, n int) {
	m.buf = binary.NativeEndian.AppendUint16(m.buf, uint16(attrLen+n))
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind)
}

// pad fills up to the alignment of attributes, 4 bytes.
func (m *message) pad() {
	for len(m.buf)%4 != 0 {
		m.buf = append(m.buf, 0)
	}
}

func (m *message) bytes(kind uint16, b []byte) {
	m.head(kind, len(b))
	m.buf = append(m.buf, b...)
	m.pad()
}

// str appends a string with the NUL that NLA_STRING wants.
func (m *message) str(kind uint16, s string) {
	m.head(kind, len(s)+1)
	m.buf = append(append(m.buf, s...), 0)
	m.pad()
}

// uint16, uint32 and uint64 append numbers in network byte order, as netfilter expects them.
func (m *message) uint32(kind uint16, n uint32) {
	m.head(kind, 4)
	m.buf = binary.BigEndian.AppendUint32(m.buf, n)
}

func (m *message) uint16(kind, n uint16) {
	m.head(kind, 2)
	m.buf = binary.BigEndian.AppendUint16(m.buf, n)
	m.pad()
}

func (m *message) uint64(kind uint16, n uint64) {
	m.head(kind, 8)
	m.buf = binary.BigEndian.AppendUint64(m.buf, n)
}

// header is a received message's.
type header struct {
	kind, flags uint16
	seq         uint32
}

// messages goes through the messages of a received datagram. body is what follows the netlink header.
func messages(b []byte) iter.Seq2[header, []byte] {
	return func(yield func(header, []byte) bool) {
		for len(b) >= headerLen {
			n := int(binary.NativeEndian.Uint32(b))
			if n < headerLen || n > len(b) {
				return
			}
			h := header{
				kind:  binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
			}
			if !yield(h, b[headerLen:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// attributes goes through the attributes in b: their kinds, without flags, and their payloads.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrLen {
			n := int(binary.NativeEndian.Uint16(b))
			if n < attrLen || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[attrLen:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// cstring reads a NUL-terminated string.
func cstring(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		b = b[:n-1]
	}
	return string(b)
}

// number reads a number of up to eight bytes in network byte order.
func number(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// native and nativeUint32 write and read a number in the machine's byte order.
func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// messageType is the type of a message of a netfilter subsystem (struct nfgenmsg, include/uapi/linux/netfilter/nfnetlink.h).
func messageType(subsystem, kind uint16) uint16 { return subsystem<<8 | kind }
