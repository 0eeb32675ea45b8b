package kernel

// Errors of a batch: from the kernel's error messages to the change and the element that are at fault.

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// ErrStale is Apply's error if the ruleset has changed since the given generation.
var ErrStale = errors.New("the ruleset has changed since it was read")

// ErrNoRoom is Apply's error if there is no memory for the transaction, or if it is too large to be sent. A smaller transaction may
// succeed.
var ErrNoRoom = errors.New("no room for the transaction")

// isNoRoom reports whether an error of a batch means that there is no room for it: ENOBUFS or ENOMEM of a send, or ENOMEM that the
// kernel reports about the batch as a whole, whatever the message for which memory was short (nfnetlink_rcv_batch in
// net/netfilter/nfnetlink.c). EMSGSIZE means that the send buffer is too small.
func isNoRoom(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EMSGSIZE)
}

// ChangeError is the error of a transaction that the kernel refused. Nothing of that transaction was applied.
type ChangeError struct {
	// Change is the change at fault, reduced to the one rule or, if the kernel named it, the one element. Its Op is 0 if
	// the kernel refused the transaction as a whole.
	Change nft.Change
	// Others is the number of further errors that the kernel reported.
	Others int
	// Text is the kernel's own explanation, often empty.
	Text string
	Err  error
}

// Error names the change, the object and the cause.
func (e *ChangeError) Error() string {
	text := "commit"
	if e.Change.Op != 0 {
		text = e.Change.Summary()
	}
	if e.Text != "" {
		text += ": " + e.Text
	}
	text += ": " + e.Err.Error()
	if e.Others > 0 {
		text += fmt.Sprintf(" (and %d more)", e.Others)
	}
	return text
}

// Unwrap returns the error of the system call.
func (e *ChangeError) Unwrap() error { return e.Err }

// refusal is one error message of the kernel, or an acknowledgement if errno is 0.
type refusal struct {
	seq    uint32 // of the message at fault
	errno  syscall.Errno
	text   string // the kernel's explanation, often empty
	offset int    // of the attribute at fault in the message, 0 if unknown
}

// answers returns the refusals among datagrams that are about messages of the batch, and reports whether the answer that ends
// all others is among them: that to the last message, or one about the batch as a whole.
func (b *batch) answers(datagrams []byte) (refused []refusal, last bool) {
	for _, r := range decodeAnswers(datagrams) {
		number := r.seq - b.first // sequence numbers wrap around
		if number > uint32(len(b.origins)) {
			continue
		}
		last = last || number == uint32(len(b.origins)) || number == 0
		if r.errno != 0 {
			refused = append(refused, r)
		}
	}
	return refused, last
}

// decodeAnswers returns the error messages in datagrams, with errno 0 for acknowledgements (netlink(7); NLMSGERR_ATTR_* in
// include/uapi/linux/netlink.h).
func decodeAnswers(datagrams []byte) []refusal {
	var all []refusal
	for h, body := range nlmsg.Messages(datagrams) {
		if h.Type != unix.NLMSG_ERROR || len(body) < 4+nlmsg.HeaderLen {
			continue
		}
		r := refusal{errno: syscall.Errno(-int32(nlmsg.NativeUint32(body))), seq: nlmsg.NativeUint32(body[12:])}
		for kind, b := range nlmsg.Attributes(body[4+nlmsg.HeaderLen:]) {
			switch {
			case kind == unix.NLMSGERR_ATTR_MSG:
				r.text = nlmsg.CString(b)
			case kind == unix.NLMSGERR_ATTR_OFFS && len(b) == 4:
				r.offset = int(nlmsg.NativeUint32(b))
			}
		}
		all = append(all, r)
	}
	return all
}

// explain returns an error about the first of the kernel's refusals.
func (b *batch) explain(all []refusal, changes []nft.Change) error {
	r := all[0]
	e := &ChangeError{Others: len(all) - 1, Text: r.text, Err: r.errno}
	if r.errno == unix.ERESTART {
		return ErrStale
	}
	if isNoRoom(r.errno) {
		e.Err = fmt.Errorf("%w: %w", ErrNoRoom, r.errno)
	}
	if r.seq == b.first {
		e.Err = hint(e.Err)
		return e
	}
	o := b.origins[r.seq-b.first-1]
	e.Change = changes[o.change]
	switch obj := e.Change.Object.(type) {
	case nft.Elements:
		if i := b.elementAt(o, r.offset); r.offset > 0 && i >= 0 && i < len(obj.List) {
			e.Change.Object = nft.Elements{Set: obj.Set, List: obj.List[i : i+1]}
		}
	case nft.Rules:
		if e.Change.Op == nft.Add {
			only := *obj.Chain
			only.Rules = only.Rules[o.first : o.first+1]
			e.Change.Object = nft.Rules{Chain: &only}
			if strings.Contains(only.Rules[0].Text(only.Table.Family), "jhash ") {
				e.Err = hintOfExpression("hash expressions, which lb-algorithm maglev needs: CONFIG_NFT_HASH, module nft_hash", e.Err)
			}
		}
	case *nft.Set:
		if e.Change.Op == nft.Add && obj.Limit != nil {
			e.Err = hintOfExpression("limit expressions, which max-connection-rate needs: CONFIG_NFT_LIMIT, module nft_limit", e.Err)
		}
	}
	return e
}

// hint adds to the error of a whole batch what it usually means.
func hint(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("CAP_NET_ADMIN is missing: %w", os.ErrPermission)
	}
	return err
}

// hintOfExpression adds to the error of a rule or a set which expressions in it the kernel may lack. ENOENT can also mean that a set or a
// chain is missing (nft_expr_type_get in net/netfilter/nf_tables_api.c).
func hintOfExpression(expressions string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: the kernel may lack %s", err, expressions)
	}
	return err
}

// elementAt returns the index, in the change's list, of the element at an offset in a message, or -1 if there is none.
func (b *batch) elementAt(o origin, offset int) int {
	at := o.start + nlmsg.HeaderLen + nlmsg.NFGenLen
	end := o.start + int(nlmsg.NativeUint32(b.Buf[o.start:]))
	for at < end {
		n := int(uint16(nlmsg.NativeUint32(b.Buf[at:])))
		kind := uint16(nlmsg.NativeUint32(b.Buf[at:])>>16) & nlmsg.AttrTypeMask
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			at += nlmsg.Align(n)
			continue
		}
		return b.entryAt(o, at+nlmsg.AttrLen, at+n, o.start+offset)
	}
	return -1
}

// entryAt returns the index of the element whose list entry, among those from at to end, contains position.
func (b *batch) entryAt(o origin, at, end, position int) int {
	for i := 0; at < end; i++ {
		n := nlmsg.Align(int(uint16(nlmsg.NativeUint32(b.Buf[at:]))))
		if n == 0 {
			return -1
		}
		if position >= at && position < at+n {
			if o.doubled {
				i /= 2
			}
			return o.first + i
		}
		at += n
	}
	return -1
}
