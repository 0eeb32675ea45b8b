package kernel

// Elements from the kernel's messages.

import (
	"cmp"
	"encoding/binary"
	"nfproxy/nft"
	"nfproxy/nlmsg"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listed iterates over the elements of a NEWSETELEM message.
func listed(s *nft.Set, body []byte) func(yield func(kernelElement) bool) {
	return func(yield func(kernelElement) bool) {
		for kind, list := range nlmsg.Attributes(body) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, b := range nlmsg.Attributes(list) {
				if !yield(decodeElement(s, b)) {
					return
				}
			}
		}
	}
}

// kernelElement is an element as the kernel returns it.
type kernelElement struct {
	nft.Element
	keyEnd  nft.Value     // the last value of an interval of several fields
	end     bool          // the element marks the end of an interval: Key is the first value after it
	timeout time.Duration // of a dynamic element, counted from its last refresh
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
			e.Expires = time.Duration(nlmsg.Number(b)) * time.Millisecond
		case unix.NFTA_SET_ELEM_USERDATA:
			e.Comment = comment(b)
		case unix.NFTA_SET_ELEM_EXPR:
			e.Counter = decodeCounter(b)
			if l := decodeLimit(b); l != nil && !s.Dynamic {
				e.Data = l.Value()
			}
		}
	}
	return e
}

// decodeData decodes NFTA_DATA_VERDICT, if the type is that of verdicts, or NFTA_DATA_VALUE.
func decodeData(types []nft.Type, body []byte) nft.Value {
	verdict := len(types) == 1 && types[0] == nft.VerdictType
	for kind, b := range nlmsg.Attributes(body) {
		switch {
		case kind == unix.NFTA_DATA_VALUE && !verdict:
			return unpad(types, b)
		case kind == unix.NFTA_DATA_VERDICT && verdict:
			return DecodeVerdict(b).Value()
		}
	}
	return ""
}

// registerBytes is the maximum length of a key or data (NFT_DATA_VALUE_MAXLEN in
// include/uapi/linux/netfilter/nf_tables.h).
const registerBytes = 64

// unpad is the inverse of addKey's layout. It returns "" if b is too short for the types.
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

// DecodeVerdict decodes the attributes of NFTA_DATA_VERDICT.
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

// comment returns the comment in nft's userdata, "" if there is none. An entry is a type, a length and the bytes; the type
// of a comment is 0, for tables as for elements.
func comment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == 0 {
			return nlmsg.CString(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

// decodeCounter decodes an element's expression. It returns nil for any expression but a counter.
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

// decodeLimit decodes an expression. It returns nil for any expression but a limit that nft.Limit expresses.
func decodeLimit(body []byte) *nft.Limit {
	var data []byte
	limit := false
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			limit = nlmsg.CString(b) == "limit"
		case unix.NFTA_EXPR_DATA:
			data = b
		}
	}
	var l nft.Limit
	var flags, unit uint64
	if !limit {
		return nil
	}
	for kind, b := range nlmsg.Attributes(data) {
		switch kind {
		case unix.NFTA_LIMIT_RATE:
			l.Packets = nlmsg.Number(b)
		case unix.NFTA_LIMIT_UNIT:
			unit = nlmsg.Number(b)
		case unix.NFTA_LIMIT_BURST:
			l.Burst = uint32(nlmsg.Number(b))
		case unix.NFTA_LIMIT_TYPE:
			limit = nlmsg.Number(b) == unix.NFT_LIMIT_PKTS
		case unix.NFTA_LIMIT_FLAGS:
			flags = nlmsg.Number(b)
		}
	}
	const maxUnit = uint64(24 * time.Hour / time.Second)
	if l.Per = time.Duration(min(unit, maxUnit+1)) * time.Second; !limit || flags != unix.NFT_LIMIT_F_INV || l.Unit() == "" {
		return nil
	}
	return &l
}

// joinIntervals returns the intervals that the kernel's elements describe. An interval of several fields is one element. An
// interval of a single field is a pair: its start and its end. nft marks a gap before the first interval by an end without
// a start; a start without an end reaches to the last value.
func joinIntervals(s *nft.Set, all []kernelElement) []nft.Element {
	if len(s.Key) > 1 {
		var elements []nft.Element
		for _, e := range all {
			last := e.keyEnd
			if last == "" || e.Key == "" { // a single value, or the catch-all element
				last = e.Key
			}
			e.Element.Key += last
			elements = append(elements, e.Element)
		}
		return elements
	}
	var elements []nft.Element
	all = slices.DeleteFunc(all, func(e kernelElement) bool {
		if e.Key == "" { // the catch-all element
			elements = append(elements, e.Element)
		}
		return e.Key == ""
	})
	slices.SortFunc(all, func(a, b kernelElement) int {
		if c := cmp.Compare(a.Key, b.Key); c != 0 || a.end == b.end {
			return c
		}
		if a.end {
			return -1
		}
		return 1
	})
	var open *nft.Element
	for i := range all {
		switch {
		case !all[i].end:
			open = &all[i].Element
		case open != nil:
			open.Key += predecessor(all[i].Key)
			elements, open = append(elements, *open), nil
		}
	}
	if open != nil {
		open.Key += nft.Value(strings.Repeat("\xff", len(open.Key)))
		elements = append(elements, *open)
	}
	return elements
}

// predecessor returns the value before v, which must not be the first value.
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
