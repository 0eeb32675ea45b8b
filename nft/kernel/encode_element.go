package kernel

// Elements as attributes.

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// addElement appends one element of a set as a list entry of NEWSETELEM or, with keyAlone, of DELSETELEM and GETSETELEM.
// An interval of a single field takes two entries: its start, and the value after its end.
func addElement(m *nlmsg.Message, s *nft.Set, e nft.Element, keyAlone bool) {
	if e.Key == "" {
		addCatchAll(m, s, e, keyAlone)
		return
	}
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

// addPlain appends an element with a single key.
func addPlain(m *nlmsg.Message, s *nft.Set, e nft.Element, keyAlone bool) {
	at := m.Nest(unix.NFTA_LIST_ELEM)
	addKey(m, unix.NFTA_SET_ELEM_KEY, s.Key, e.Key)
	addRest(m, s, e, keyAlone)
	m.Unnest(at)
}

// addCatchAll appends the catch-all element.
func addCatchAll(m *nlmsg.Message, s *nft.Set, e nft.Element, keyAlone bool) {
	at := m.Nest(unix.NFTA_LIST_ELEM)
	m.Uint32(unix.NFTA_SET_ELEM_FLAGS, elemCatchAll)
	addRest(m, s, e, keyAlone)
	m.Unnest(at)
}

// addRest appends the parts of an element other than its key, unless keyAlone is set.
func addRest(m *nlmsg.Message, s *nft.Set, e nft.Element, keyAlone bool) {
	if keyAlone {
		return
	}
	switch {
	case s.IsVerdictMap():
		addVerdict(m, e.Data.Verdict())
	case s.IsMap():
		addKey(m, unix.NFTA_SET_ELEM_DATA, s.Data, e.Data)
	}
	if e.Comment != "" {
		// An entry of nft's userdata: the type NFTNL_UDATA_SET_ELEM_COMMENT, the length, the text with a NUL.
		m.Head(unix.NFTA_SET_ELEM_USERDATA, len(e.Comment)+3)
		m.Buf = append(m.Buf, 0, byte(len(e.Comment)+1))
		m.Buf = append(append(m.Buf, e.Comment...), 0)
		m.Pad()
	}
	if e.Counter != nil {
		addCounter(m, *e.Counter)
	}
	if e.Data != "" && s.Limit != nil {
		list := m.Nest(elemExpressions)
		elem := m.Nest(unix.NFTA_LIST_ELEM)
		addLimit(m, e.Data.Limit())
		m.Unnest(elem)
		m.Unnest(list)
	}
}

// addKey appends a value in the layout of registers: each field padded to 4 bytes.
func addKey(m *nlmsg.Message, kind uint16, types []nft.Type, v nft.Value) {
	at := m.Nest(kind)
	_, size := concatenation(types)
	m.Head(unix.NFTA_DATA_VALUE, int(size))
	for _, t := range types {
		n := t.Width()
		if t == nft.SlotNumber { // numgen writes its number in the CPU's byte order
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

// addLimit appends the attributes of a limit expression.
func addLimit(m *nlmsg.Message, l nft.Limit) {
	m.String(unix.NFTA_EXPR_NAME, "limit")
	data := m.Nest(unix.NFTA_EXPR_DATA)
	m.Uint64(unix.NFTA_LIMIT_RATE, l.Packets)
	m.Uint64(unix.NFTA_LIMIT_UNIT, uint64(l.Per/time.Second))
	m.Uint32(unix.NFTA_LIMIT_BURST, l.Burst)
	m.Uint32(unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS)
	m.Uint32(unix.NFTA_LIMIT_FLAGS, unix.NFT_LIMIT_F_INV)
	m.Unnest(data)
}

// successor returns the value after v. It returns false if v is the last value.
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
