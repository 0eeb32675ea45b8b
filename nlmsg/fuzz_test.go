package nlmsg

import (
	"bytes"
	"errors"
	"testing"
	"unsafe"
)

// FuzzMessages: iterating over any bytes yields parts of them, in order and without overlap; and the messages and attributes
// that were found, written again, are found again.
func FuzzMessages(f *testing.F) {
	var m Message
	m.Begin(Type(10, 3), 5, 77, 2, 0)
	m.String(1, "abcd")
	at := m.Nest(2)
	m.Uint16(3, 0x1234)
	m.Uint64(5, 0x123456789abcdef0)
	m.Unnest(at)
	m.End()
	m.Begin(Type(0, 16), 0, 78, 0, 10)
	m.End()
	f.Add(m.Buf)
	f.Fuzz(func(t *testing.T, b []byte) {
		var again Message
		var headers []Header
		var bodies [][]byte
		end := 0
		for h, body := range Messages(b) {
			end = checkPart(t, b, body, end)
			headers, bodies = append(headers, h), append(bodies, body)
			checkAttributes(t, body)
			if len(body) < NFGenLen {
				return // Message writes only messages of netfilter
			}
			again.Begin(h.Type, h.Flags, h.Seq, 0, 0)
			copy(again.Buf[len(again.Buf)-NFGenLen:], body)
			again.Buf = append(again.Buf, body[NFGenLen:]...)
			again.End()
			again.Pad()
		}
		n := 0
		for h, body := range Messages(again.Buf) {
			if n >= len(headers) || h != headers[n] || !bytes.Equal(body, bodies[n]) {
				t.Fatalf("message %d, written again, is %+v %x", n, h, body)
			}
			n++
		}
		if n != len(headers) {
			t.Fatalf("%d messages, written again, are %d", len(headers), n)
		}
	})
}

// checkPart fails the test unless part lies in b, at end or later. It returns the end of the part.
func checkPart(t *testing.T, b, part []byte, end int) int {
	t.Helper()
	start := int(uintptr(unsafe.Pointer(unsafe.SliceData(part))) - uintptr(unsafe.Pointer(unsafe.SliceData(b))))
	if len(part) > 0 && (start < end || start+len(part) > len(b)) {
		t.Fatalf("a part from %d to %d, after one that ends at %d, of %d bytes", start, start+len(part), end, len(b))
	}
	return max(end, start+len(part))
}

// checkAttributes checks what FuzzMessages asserts for the attributes in b.
func checkAttributes(t *testing.T, b []byte) {
	t.Helper()
	var again Message
	var kinds []uint16
	var payloads [][]byte
	end := 0
	for kind, payload := range Attributes(b) {
		end = checkPart(t, b, payload, end)
		kinds, payloads = append(kinds, kind), append(payloads, payload)
		again.Bytes(kind, payload)
		_, _ = CString(payload), Number(payload)
	}
	n := 0
	for kind, payload := range Attributes(again.Buf) {
		if n >= len(kinds) || kind != kinds[n] || !bytes.Equal(payload, payloads[n]) {
			t.Fatalf("attribute %d, written again, is %d %x", n, kind, payload)
		}
		n++
	}
	if n != len(kinds) {
		t.Fatalf("%d attributes, written again, are %d", len(kinds), n)
	}
}

// FuzzAnswers: whatever datagrams arrive, a request passes on the bodies of its own answers alone, none after an error, and
// reports its end.
func FuzzAnswers(f *testing.F) {
	const seq = 7
	var m Message
	for range 2 {
		m.Begin(Type(10, 3), 2, seq, 2, 0)
		m.String(1, "abcd")
		m.End()
	}
	f.Add(bytes.Clone(m.Buf))
	for _, kind := range []uint16{2, 3} { // NLMSG_ERROR, NLMSG_DONE
		var end Message
		end.Begin(kind, 0, seq, 1, 0)
		end.End()
		f.Add(append(bytes.Clone(m.Buf), end.Buf...))
	}
	refused := errors.New("refused")
	f.Fuzz(func(t *testing.T, b []byte) {
		own := 0
		for h := range Messages(b) {
			if h.Seq == seq {
				own++
			}
		}
		s := &Socket{Seq: seq}
		passed := 0
		a, err := s.answers(b, func([]byte) error { passed++; return nil })
		if passed > own || a.done && passed == own {
			t.Errorf("of %d answers %d were passed on; done: %t", own, passed, a.done)
		}
		if !a.done && err == nil && passed != own {
			t.Errorf("of %d answers %d were passed on without an error", own, passed)
		}
		calls := 0
		if _, err := s.answers(b, func([]byte) error { calls++; return refused }); calls > 1 || calls == 1 && err == nil {
			t.Errorf("%d calls after an error, which is reported as %v", calls, err)
		}
	})
}
