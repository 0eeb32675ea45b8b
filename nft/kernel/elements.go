package kernel

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/nlmsg"
)

// addElement appends one element of a set, as a list element of NEWSETELEM or, with the key alone, of DELSETELEM and
// GETSETELEM. An interval of single fields is two elements, its start and the value after its end.
func addElement(m *nlmsg.Message, s *nft.Set, e nft.Element, keyAlone bool) {
	if !s.Interval {
		addPlain(m, s, e, keyAlone)
		return
	}
	first, last := e.Key[:len(e.Key)/2], e.Key[len(e.Key)/2:]
	if len(s.Key) > 1 {
		at := m.Nest(unix.NFTA_LIST_ELEM)
		addKey(m, unix.NFTA_SET_ELEM_KEY, s.Key, first)
		addKey(m, elemKeyEnd, s.Key, last)
		addRest(m, s, e, keyAlone)
		m.Unnest(at)
		return
	}
	addPlain(m, s, nft.Element{Key: first, Data: e.Data, Comment: e.Comment, Counter: e.Counter}, keyAlone)
	if next, ok := successor(last); ok {
		at := m.Nest(unix.NFTA_LIST_ELEM)
		m.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		addKey(m, unix.NFTA_SET_ELEM_KEY, s.Key, next)
		m.Unnest(at)
	}
}

func addPlain(m *nlmsg.Message, s *nft.Set, e nft.Element, keyAlone bool) {
	at := m.Nest(unix.NFTA_LIST_ELEM)
	addKey(m, unix.NFTA_SET_ELEM_KEY, s.Key, e.Key)
	addRest(m, s, e, keyAlone)
	m.Unnest(at)
}

// addRest appends what an element has besides its key.
func addRest(m *nlmsg.Message, s *nft.Set, e nft.Element, keyAlone bool) {
	if keyAlone {
		return
	}
	switch {
	case s.IsVerdictMap():
		addVerdict(m, e.Data.Verdict())
	case s.Data != nil:
		addKey(m, unix.NFTA_SET_ELEM_DATA, s.Data, e.Data)
	}
	if e.Comment != "" {
		// One entry of nft's userdata: NFTNL_UDATA_SET_ELEM_COMMENT, the length, the text with its NUL.
		m.Head(unix.NFTA_SET_ELEM_USERDATA, len(e.Comment)+3)
		m.Buf = append(m.Buf, 0, byte(len(e.Comment)+1))
		m.Buf = append(append(m.Buf, e.Comment...), 0)
		m.Pad()
	}
	if e.Counter != nil {
		addCounter(m, *e.Counter)
	}
}

// addKey appends a value: its fields in registers' layout, each padded to 4 bytes.
func addKey(m *nlmsg.Message, kind uint16, types []nft.Type, v nft.Value) {
	at := m.Nest(kind)
	_, size := concatenation(types)
	m.Head(unix.NFTA_DATA_VALUE, int(size))
	for _, t := range types {
		n := t.Width()
		if t == nft.SlotNumber { // numgen leaves its number in the CPU's byte order
			m.Buf = binary.NativeEndian.AppendUint32(m.Buf, uint32(v[:n].Uint16()))
		} else {
			m.Buf = append(m.Buf, v[:n]...)
		}
		m.Pad()
		v = v[n:]
	}
	m.Unnest(at)
}

func addVerdict(m *nlmsg.Message, v nft.Verdict) {
	data := m.Nest(unix.NFTA_SET_ELEM_DATA)
	verdict := m.Nest(unix.NFTA_DATA_VERDICT)
	code, _ := verdictCode(v.Kind) // checked before the batch is built
	m.Uint32(unix.NFTA_VERDICT_CODE, uint32(code))
	if v.Chain != "" {
		m.String(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	m.Unnest(verdict)
	m.Unnest(data)
}

func addCounter(m *nlmsg.Message, c nft.Counter) {
	list := m.Nest(elemExpressions)
	elem := m.Nest(unix.NFTA_LIST_ELEM)
	m.String(unix.NFTA_EXPR_NAME, "counter")
	data := m.Nest(unix.NFTA_EXPR_DATA)
	m.Uint64(unix.NFTA_COUNTER_BYTES, c.Bytes)
	m.Uint64(unix.NFTA_COUNTER_PACKETS, c.Packets)
	m.Unnest(data)
	m.Unnest(elem)
	m.Unnest(list)
}

// successor is the value after v, if there is one.
func successor(v nft.Value) (nft.Value, bool) {
	b := []byte(v)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return nft.Value(b), true
		}
	}
	return "", false
}

// predecessor is the value before v, which is not the first.
func predecessor(v nft.Value) nft.Value {
	b := []byte(v)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return nft.Value(b)
}

// kernelElement is one element as the kernel gives it.
type kernelElement struct {
	nft.Element
	keyEnd nft.Value
	end    bool // of an interval: Key is the first value past it
	// timeout is the time of an element that does not stay for ever, expires the rest of it.
	timeout, expires time.Duration
}

func decodeElement(s *nft.Set, body []byte) (e kernelElement) {
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = decodeData(s.Key, b)
		case elemKeyEnd:
			e.keyEnd = decodeData(s.Key, b)
		case unix.NFTA_SET_ELEM_DATA:
			e.Data = decodeData(s.Data, b)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = nlmsg.Number(b)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.timeout = time.Duration(nlmsg.Number(b)) * time.Millisecond
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.expires = time.Duration(nlmsg.Number(b)) * time.Millisecond
		case unix.NFTA_SET_ELEM_USERDATA:
			e.Comment = comment(b)
		case unix.NFTA_SET_ELEM_EXPR:
			e.Counter = decodeCounter(b)
		}
	}
	return e
}

// decodeData reads NFTA_DATA_VALUE or NFTA_DATA_VERDICT.
func decodeData(types []nft.Type, body []byte) nft.Value {
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_DATA_VALUE:
			return unpad(types, b)
		case unix.NFTA_DATA_VERDICT:
			return DecodeVerdict(b).Value()
		}
	}
	return ""
}

// registerBytes is the most that a key or data can have (NFT_DATA_VALUE_MAXLEN in include/uapi/linux/netfilter/nf_tables.h).
const registerBytes = 64

// unpad undoes addKey's layout.
func unpad(types []nft.Type, b []byte) nft.Value {
	var room [registerBytes]byte
	v := room[:0]
	for _, t := range types {
		n := int(typeLen(t))
		if n > len(b) {
			return ""
		}
		if t == nft.SlotNumber {
			v = binary.BigEndian.AppendUint16(v, uint16(nlmsg.NativeUint32(b)))
		} else {
			v = append(v, b[:n]...)
		}
		b = b[min(nlmsg.Align(n), len(b)):]
	}
	return nft.Value(v)
}

func DecodeVerdict(body []byte) (v nft.Verdict) {
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = VerdictOf(int32(nlmsg.Number(b)))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = nlmsg.CString(b)
		}
	}
	return v
}

// comment finds the comment among the entries of nft's userdata: type, length, bytes.
func comment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == 0 {
			return nlmsg.CString(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

// decodeCounter reads an element's expression, nil if it is no counter.
func decodeCounter(body []byte) *nft.Counter {
	var c *nft.Counter
	for kind, b := range nlmsg.Attributes(body) {
		switch {
		case kind == unix.NFTA_EXPR_NAME && nlmsg.CString(b) == "counter":
			c = &nft.Counter{}
		case kind == unix.NFTA_EXPR_DATA && c != nil:
			for kind, b := range nlmsg.Attributes(b) {
				switch kind {
				case unix.NFTA_COUNTER_BYTES:
					c.Bytes = nlmsg.Number(b)
				case unix.NFTA_COUNTER_PACKETS:
					c.Packets = nlmsg.Number(b)
				}
			}
		}
	}
	return c
}
