package kernel

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// addElement appends one element of a set, as a list element of NEWSETELEM or, with the key alone, of DELSETELEM and
// GETSETELEM. An interval of single fields is two elements, its start and the value after its end.
func addElement(m *message, s *nft.Set, e nft.Element, keyAlone bool) {
	if !s.Interval {
		addPlain(m, s, e, keyAlone)
		return
	}
	first, last := e.Key[:len(e.Key)/2], e.Key[len(e.Key)/2:]
	if len(s.Key) > 1 {
		at := m.nest(unix.NFTA_LIST_ELEM)
		addKey(m, unix.NFTA_SET_ELEM_KEY, s.Key, first)
		addKey(m, elemKeyEnd, s.Key, last)
		addRest(m, s, e, keyAlone)
		m.unnest(at)
		return
	}
	addPlain(m, s, nft.Element{Key: first, Data: e.Data, Comment: e.Comment, Counter: e.Counter}, keyAlone)
	if next, ok := successor(last); ok {
		at := m.nest(unix.NFTA_LIST_ELEM)
		m.uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		addKey(m, unix.NFTA_SET_ELEM_KEY, s.Key, next)
		m.unnest(at)
	}
}

func addPlain(m *message, s *nft.Set, e nft.Element, keyAlone bool) {
	at := m.nest(unix.NFTA_LIST_ELEM)
	addKey(m, unix.NFTA_SET_ELEM_KEY, s.Key, e.Key)
	addRest(m, s, e, keyAlone)
	m.unnest(at)
}

// addRest appends what an element has besides its key.
func addRest(m *message, s *nft.Set, e nft.Element, keyAlone bool) {
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
		m.head(unix.NFTA_SET_ELEM_USERDATA, len(e.Comment)+3)
		m.buf = append(m.buf, 0, byte(len(e.Comment)+1))
		m.buf = append(append(m.buf, e.Comment...), 0)
		m.pad()
	}
	if e.Counter != nil {
		addCounter(m, *e.Counter)
	}
}

// addKey appends a value: its fields in registers' layout, each padded to 4 bytes.
func addKey(m *message, kind uint16, types []nft.Type, v nft.Value) {
	at := m.nest(kind)
	_, size := concatenation(types)
	m.head(unix.NFTA_DATA_VALUE, int(size))
	for _, t := range types {
		n := t.Width()
		if t == nft.SlotNumber { // numgen leaves its number in the CPU's byte order
			m.buf = binary.NativeEndian.AppendUint32(m.buf, uint32(v[:n].Uint16()))
		} else {
			m.buf = append(m.buf, v[:n]...)
		}
		m.pad()
		v = v[n:]
	}
	m.unnest(at)
}

func addVerdict(m *message, v nft.Verdict) {
	data := m.nest(unix.NFTA_SET_ELEM_DATA)
	verdict := m.nest(unix.NFTA_DATA_VERDICT)
	code, _ := verdictCode(v.Kind) // checked before the batch is built
	m.uint32(unix.NFTA_VERDICT_CODE, uint32(code))
	if v.Chain != "" {
		m.str(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	m.unnest(verdict)
	m.unnest(data)
}

func addCounter(m *message, c nft.Counter) {
	list := m.nest(elemExpressions)
	elem := m.nest(unix.NFTA_LIST_ELEM)
	m.str(unix.NFTA_EXPR_NAME, "counter")
	data := m.nest(unix.NFTA_EXPR_DATA)
	m.uint64(unix.NFTA_COUNTER_BYTES, c.Bytes)
	m.uint64(unix.NFTA_COUNTER_PACKETS, c.Packets)
	m.unnest(data)
	m.unnest(elem)
	m.unnest(list)
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
	for kind, b := range attributes(body) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = decodeData(s.Key, b)
		case elemKeyEnd:
			e.keyEnd = decodeData(s.Key, b)
		case unix.NFTA_SET_ELEM_DATA:
			e.Data = decodeData(s.Data, b)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = number(b)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.timeout = time.Duration(number(b)) * time.Millisecond
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.expires = time.Duration(number(b)) * time.Millisecond
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
	for kind, b := range attributes(body) {
		switch kind {
		case unix.NFTA_DATA_VALUE:
			return unpad(types, b)
		case unix.NFTA_DATA_VERDICT:
			return decodeVerdict(b).Value()
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
			v = binary.BigEndian.AppendUint16(v, uint16(nativeUint32(b)))
		} else {
			v = append(v, b[:n]...)
		}
		b = b[min(align(n), len(b)):]
	}
	return nft.Value(v)
}

func decodeVerdict(body []byte) (v nft.Verdict) {
	for kind, b := range attributes(body) {
		switch kind {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = verdictOf(int32(number(b)))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = cstring(b)
		}
	}
	return v
}

// comment finds the comment among the entries of nft's userdata: type, length, bytes.
func comment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == 0 {
			return cstring(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

// decodeCounter reads an element's expression, nil if it is no counter.
func decodeCounter(body []byte) *nft.Counter {
	var c *nft.Counter
	for kind, b := range attributes(body) {
		switch {
		case kind == unix.NFTA_EXPR_NAME && cstring(b) == "counter":
			c = &nft.Counter{}
		case kind == unix.NFTA_EXPR_DATA && c != nil:
			for kind, b := range attributes(b) {
				switch kind {
				case unix.NFTA_COUNTER_BYTES:
					c.Bytes = number(b)
				case unix.NFTA_COUNTER_PACKETS:
					c.Packets = number(b)
				}
			}
		}
	}
	return c
}
