package nlmsg

import (
	"bytes"
	"testing"
)

// TestMessage: Messages and Attributes return what Message has appended.
func TestMessage(t *testing.T) {
	var m Message
	m.Begin(Type(10, 3), 5, 77, 2, 0)
	m.String(1, "abcd")
	at := m.Nest(2)
	m.Uint16(3, 0x1234)
	m.Uint32(4, 0x12345678)
	m.Uint64(5, 0x123456789abcdef0)
	m.Unnest(at)
	m.End()
	m.Begin(Type(0, 16), 0, 78, 0, 10)
	m.End()
	if len(m.Buf)%4 != 0 {
		t.Errorf("%d bytes are not aligned", len(m.Buf))
	}
	var headers []Header
	for h, body := range Messages(m.Buf) {
		headers = append(headers, h)
		if h.Seq != 77 {
			if !bytes.Equal(body, []byte{0, 0, 0, 10}) {
				t.Errorf("body of the second message: %x", body)
			}
			continue
		}
		for kind, b := range Attributes(body[NFGenLen:]) {
			switch kind {
			case 1:
				if got := CString(b); got != "abcd" {
					t.Errorf("string: %q", got)
				}
			case 2:
				var numbers []uint64
				for _, b := range Attributes(b) {
					numbers = append(numbers, Number(b))
				}
				if len(numbers) != 3 || numbers[0] != 0x1234 || numbers[1] != 0x12345678 || numbers[2] != 0x123456789abcdef0 {
					t.Errorf("numbers: %x", numbers)
				}
			default:
				t.Errorf("attribute %d", kind)
			}
		}
	}
	if len(headers) != 2 || headers[0] != (Header{Type: 0x0a03, Flags: 5, Seq: 77}) || headers[1] != (Header{Type: 16, Seq: 78}) {
		t.Errorf("headers: %+v", headers)
	}
}

// TestMalformed: iterating over malformed bytes ends without a panic.
func TestMalformed(t *testing.T) {
	for _, b := range [][]byte{{1}, {3, 0, 1, 0}, {200, 0, 1, 0}, append(NativeBytes(15), make([]byte, 12)...), append(NativeBytes(99), make([]byte, 12)...)} {
		for range Messages(b) {
			t.Errorf("% x: a message", b)
		}
		if len(b) > 4 {
			continue
		}
		for range Attributes(b) {
			t.Errorf("% x: an attribute", b)
		}
	}
}
