package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// errorMessage returns the kernel's answer to the message with a sequence number (struct nlmsgerr in
// include/uapi/linux/netlink.h), with an explanation unless text is empty and an offset unless it is 0.
func errorMessage(seq uint32, errno unix.Errno, text string, offset uint32) []byte {
	var attributes nlmsg.Message
	if text != "" {
		attributes.String(unix.NLMSGERR_ATTR_MSG, text)
	}
	if offset != 0 {
		attributes.Bytes(unix.NLMSGERR_ATTR_OFFS, nlmsg.NativeBytes(offset))
	}
	header := func(length int, kind uint16, seq uint32) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(length))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, 0) // flags
		b = binary.NativeEndian.AppendUint32(b, seq)
		return binary.NativeEndian.AppendUint32(b, 0) // port ID
	}
	b := header(2*nlmsg.HeaderLen+4+len(attributes.Buf), unix.NLMSG_ERROR, seq)
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
	b = append(b, header(nlmsg.HeaderLen, 0, seq)...)
	return append(b, attributes.Buf...)
}

// TestRefusals: error messages are decoded with their explanation and offset. Acknowledgements and errors about messages
// of another batch are ignored. The answer that ends all others is reported.
func TestRefusals(t *testing.T) {
	b := &batch{first: 10, origins: make([]origin, 3)}
	want := []refusal{{seq: 11, errno: unix.EEXIST, offset: 48}, {seq: 13, errno: unix.EINVAL, text: "invalid type"}}
	var datagrams []byte
	for _, m := range [][]byte{
		errorMessage(9, unix.ENOENT, "", 0),
		errorMessage(12, 0, "", 0),
		errorMessage(11, unix.EEXIST, "", 48),
		errorMessage(14, unix.ENOENT, "", 0),
		errorMessage(13, unix.EINVAL, "invalid type", 0),
	} {
		if got, last := b.answers(datagrams); last {
			t.Errorf("the last answer is reported among %+v", got)
		}
		datagrams = append(datagrams, m...)
	}
	if got, last := b.answers(datagrams); !last || !slices.Equal(got, want) {
		t.Errorf("got %+v, %t, want %+v", got, last, want)
	}
	for _, seq := range []uint32{10, 13} { // an answer about the whole batch, and the last message's
		if got, last := b.answers(errorMessage(seq, 0, "", 0)); !last || len(got) > 0 {
			t.Errorf("acknowledgement of message %d: %+v, %t", seq, got, last)
		}
	}
}

// TestExplain: from the sequence number and the offset in a refusal follows the very rule or element, also in the second
// message of a long list and in sets whose elements take two list entries.
func TestExplain(t *testing.T) {
	id := nft.TableID{Family: nft.IPv4, Name: "t"}
	addr := func(n int) nft.Value {
		return nft.Addr(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}))
	}
	plain := &nft.Set{Table: id, Name: "plain", Key: []nft.Type{nft.IPv4Addr}}
	for n := range 5000 {
		plain.Elements = append(plain.Elements, nft.Element{Key: addr(n)})
	}
	intervals := &nft.Set{Table: id, Name: "intervals", Key: []nft.Type{nft.IPv4Addr}, Interval: true}
	for n := range 3 {
		intervals.Elements = append(intervals.Elements, nft.Element{Key: addr(10*n) + addr(10*n+5)})
	}
	changes := []nft.Change{
		{Op: nft.Add, Object: plain},
		{Op: nft.Add, Object: nft.Rules{Chain: &nft.Chain{Table: id, Name: "c", Rules: []nft.Rule{{Do: nft.Verdict{Kind: nft.Drop}}, {Do: nft.Masquerade{}}}}}},
		{Op: nft.Add, Object: nft.Elements{Set: plain, List: plain.Elements}},
		{Op: nft.Delete, Object: nft.Elements{Set: intervals, List: intervals.Elements}},
	}
	c := &Conn{nl: &nlmsg.Socket{Seq: 6}}
	b := c.newBatch(changes, 0)
	for i, ch := range changes {
		if err := b.change(i, ch); err != nil {
			t.Fatal(err)
		}
	}
	// keyAt returns the sequence number of the message that contains a key, and the offset of the key in it.
	keyAt := func(change int, key nft.Value) (seq uint32, offset uint32) {
		for i, o := range b.origins {
			message := b.Buf[o.start:][:nlmsg.NativeUint32(b.Buf[o.start:])]
			if at := strings.Index(string(message), string(key)); o.change == change && at >= 0 {
				return b.first + 1 + uint32(i), uint32(at)
			}
		}
		t.Fatalf("no message with key %x", key)
		return 0, 0
	}
	refused := func(seq, offset uint32, text string) error {
		return b.explain(decodeAnswers(errorMessage(seq, unix.EEXIST, text, offset)), changes)
	}
	lastSeq, lastOffset := keyAt(2, addr(4999))
	if lastSeq != 12 {
		t.Errorf("the last element is in the message with sequence number %d, not 12: the list was not split as expected", lastSeq)
	}
	midSeq, midOffset := keyAt(3, addr(10))
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"set", refused(8, 0, "no room"), "add set ip t plain { type ipv4_addr; }: no room: file exists"},
		{"second rule", refused(10, 24, ""), "add rule ip t c masquerade fully-random: file exists"},
		{"last of many elements", refused(lastSeq, lastOffset, ""), "add element ip t plain { 10.0.19.135 }: file exists"},
		{"second interval", refused(midSeq, midOffset, ""), "delete element ip t intervals { 10.0.0.10-10.0.0.15 }: file exists"},
		{"offset outside of the list", refused(midSeq, 20, ""),
			"delete element ip t intervals { 10.0.0.0-10.0.0.5, 10.0.0.10-10.0.0.15, 10.0.0.20-10.0.0.25 }: file exists"},
		{"whole batch", refused(7, 0, ""), "commit: file exists"},
	} {
		if c.err.Error() != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, c.err, c.want)
		}
		if !errors.Is(c.err, unix.EEXIST) {
			t.Errorf("%s: %v does not wrap the errno", c.name, c.err)
		}
	}
	two := append(errorMessage(8, unix.EEXIST, "", 0), errorMessage(9, unix.ENOENT, "", 0)...)
	if got, want := b.explain(decodeAnswers(two), changes).Error(), "add set ip t plain { type ipv4_addr; }: file exists (and 1 more)"; got != want {
		t.Errorf("two refusals: got %q, want %q", got, want)
	}
	if err := b.explain(decodeAnswers(errorMessage(7, unix.ERESTART, "", 0)), changes); !errors.Is(err, ErrStale) {
		t.Errorf("another generation: %v", err)
	}
	for _, errno := range []unix.Errno{unix.ENOMEM, unix.EMSGSIZE, unix.EEXIST} {
		if err := b.explain(decodeAnswers(errorMessage(7, errno, "", 0)), changes); errors.Is(err, ErrNoRoom) != (errno != unix.EEXIST) || !errors.Is(err, errno) {
			t.Errorf("whole batch: %v", err)
		}
	}
	if err := b.explain(decodeAnswers(errorMessage(7, unix.EPERM, "", 0)), changes); !errors.Is(err, os.ErrPermission) {
		t.Errorf("no privilege: %v", err)
	}
}

// TestExplainMissingExpression: the error of a rule that hashes, or of a set whose elements have limits, names what the kernel may lack if
// the kernel knows no such expression. Other errors, and errors of other rules and sets, do not.
func TestExplainMissingExpression(t *testing.T) {
	id := nft.TableID{Family: nft.IPv4, Name: "t"}
	hashed := nft.Rule{Do: nft.DNAT{Key: []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.ClientHash, Mod: 251}}, Map: "m"}}
	plain := nft.Rule{Do: nft.DNAT{Key: []nft.Field{{Kind: nft.DestinationAddr}}, Map: "m"}}
	rule := func(r nft.Rule) nft.Rules {
		return nft.Rules{Chain: &nft.Chain{Table: id, Name: "c", Rules: []nft.Rule{r}}}
	}
	for _, tc := range []struct {
		object nft.Object
		errno  unix.Errno
		hint   string
	}{
		{rule(hashed), unix.ENOENT, "CONFIG_NFT_HASH"}, {rule(hashed), unix.EINVAL, ""}, {rule(plain), unix.ENOENT, ""},
		{&nft.Set{Table: id, Name: "s", Limit: &nft.Limit{}}, unix.ENOENT, "CONFIG_NFT_LIMIT"},
		{&nft.Set{Table: id, Name: "s", Limit: &nft.Limit{}}, unix.EEXIST, ""}, {&nft.Set{Table: id, Name: "s"}, unix.ENOENT, ""},
	} {
		b := &batch{first: 10, origins: []origin{{}}}
		err := b.explain([]refusal{{seq: 11, errno: tc.errno}}, []nft.Change{{Op: nft.Add, Object: tc.object}})
		if text := err.Error(); !strings.Contains(text, tc.hint) || strings.Contains(text, "CONFIG_") != (tc.hint != "") || !errors.Is(err, tc.errno) {
			t.Errorf("%v: %v", tc.errno, err)
		}
	}
}
