package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/nlmsg"
)

// ErrMoved is Apply's error when somebody changed the ruleset after the generation given.
var ErrStale = errors.New("the ruleset has changed since it was read")

// ChangeError is what the kernel did not like about a batch. Nothing of that batch was applied.
type ChangeError struct {
	// Change is the change at fault: of rules the one rule, of elements the one element where the kernel named it. Its
	// Op is 0 where the kernel refused the batch as a whole.
	Change nft.Change
	// Others is how many more errors the kernel reported.
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

// Unwrap returns the system call's error.
func (e *ChangeError) Unwrap() error { return e.Err }

// Apply carries the changes out in one transaction, whatever tables they are about: all of them, or none. Nothing is
// sent when there are none. Elements that are replaced keep their counters. Changes of learnt elements are settled by a
// second transaction, and base chains that are added get their hooks in one: if these are refused, all else is there.
//
// With a generation other than 0 the batch is refused with ErrMoved if the ruleset has changed since. Any error but a
// *ChangeError and ErrMoved means that the state is unknown and has to be read again.
func (c *Conn) Apply(changes []nft.Change, generation uint32) error {
	return c.monitor.pauseDuring(c, nft.ElementOperations(changes), func() error { return c.applyAndSettle(changes, generation) })
}

func (c *Conn) applyAndSettle(changes []nft.Change, generation uint32) error {
	changes, learnt, err := c.expandLearnt(changes)
	if err != nil {
		return err
	}
	before, hooks := hooksLast(changes)
	if err := c.apply(before, generation); err != nil {
		return err
	}
	if err := c.apply(hooks, 0); err != nil || len(learnt) == 0 {
		return err
	}
	return c.settle(learnt)
}

func (c *Conn) apply(changes []nft.Change, generation uint32) error {
	if len(changes) == 0 {
		return nil
	}
	changes, err := c.keepCounters(changes)
	if err != nil {
		return err
	}
	b := c.newBatch(changes, generation)
	for i, ch := range changes {
		if err := b.change(i, ch); err != nil {
			return err
		}
	}
	return c.commit(b, changes)
}

// newBatch begins a batch with room for the changes.
func (c *Conn) newBatch(changes []nft.Change, generation uint32) *batch {
	b := &batch{Message: nlmsg.Message{Buf: slices.Grow(c.spare[:0], estimate(changes))}, first: c.nl.Seq + 1}
	b.boundary(unix.NFNL_MSG_BATCH_BEGIN, generation)
	return b
}

// estimate is about how many bytes the changes take: a large buffer is expensive to grow by and by.
func estimate(changes []nft.Change) int {
	const perElement = 96
	return 4096 + perElement*nft.ElementOperations(changes)
}

// commit sends the batch and explains what the kernel did not like about it.
func (c *Conn) commit(b *batch, changes []nft.Change) error {
	refused, err := c.deliver(b)
	if err != nil {
		return err
	}
	if len(refused) == 0 {
		c.commits++
		return nil
	}
	return b.explain(refused, changes)
}

// deliver ends the batch, sends it and returns the kernel's errors. The kernel answers only what it refuses, and has done
// so when send returns (netlink_unicast_kernel in net/netlink/af_netlink.c).
func (c *Conn) deliver(b *batch) ([]refusal, error) {
	b.boundary(unix.NFNL_MSG_BATCH_END, 0)
	c.nl.Seq = b.first + uint32(len(b.origins))
	if cap(b.Buf) < 1<<20 { // else it is a first load's, and not needed again
		c.spare = b.Buf
	}
	if err := c.makeRoom(len(b.Buf)); err != nil {
		return nil, err
	}
	if err := c.nl.Send(b.Buf); err != nil {
		return nil, fmt.Errorf("send batch of %d bytes: %w", len(b.Buf), err)
	}
	var all []refusal
	for {
		datagram, err := c.nl.Receive(false)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnknown, err)
		}
		if datagram == nil {
			return all, nil
		}
		for _, r := range refusals(datagram) {
			if r.seq-b.first <= uint32(len(b.origins)) { // numbers wrap around
				all = append(all, r)
			}
		}
	}
}

// sendRoom is what the kernel wants to be free beside a datagram (netlink_sendmsg in net/netlink/af_netlink.c).
const sendRoom = 32

// makeRoom lets the socket take a datagram of n bytes.
func (c *Conn) makeRoom(n int) error {
	have, err := c.sendBuffer()
	if err != nil || n+sendRoom <= have {
		return err
	}
	if err := c.nl.SetWriteBuffer(n + sendRoom); err != nil { // the kernel doubles it
		return fmt.Errorf("set netlink send buffer: %w", err)
	}
	have, err = c.sendBuffer()
	if err == nil && n+sendRoom > have {
		return fmt.Errorf("a batch of %d bytes needs CAP_NET_ADMIN outside of user namespaces, or a larger net.core.wmem_max: %w",
			n, unix.EMSGSIZE)
	}
	return err
}

func (c *Conn) sendBuffer() (n int, err error) {
	cerr := c.nl.Raw.Control(func(fd uintptr) {
		n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
	})
	if err := errors.Join(err, cerr); err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return n, nil
}

// explain turns the kernel's refusals into an error about the first.
func (b *batch) explain(all []refusal, changes []nft.Change) error {
	r := all[0]
	e := &ChangeError{Others: len(all) - 1, Text: r.text, Err: r.errno}
	if r.errno == unix.ERESTART {
		return ErrStale
	}
	if r.seq == b.first {
		e.Err = hint(r.errno)
		return e
	}
	o := b.origins[r.seq-b.first-1]
	e.Change = changes[o.change]
	switch obj := e.Change.Object.(type) {
	case nft.Elements:
		if i := b.element(o, r.offset); r.offset > 0 && i >= 0 && i < len(obj.List) {
			e.Change.Object = nft.Elements{Set: obj.Set, List: obj.List[i : i+1]}
		}
	case nft.Rules:
		if e.Change.Op == nft.Add {
			only := *obj.Chain
			only.Rules = only.Rules[o.first : o.first+1]
			e.Change.Object = nft.Rules{Chain: &only}
		}
	}
	return e
}

// hint adds to the kernel's errno what it usually means for a whole batch.
func hint(errno syscall.Errno) error {
	if errno == unix.EPERM {
		return fmt.Errorf("CAP_NET_ADMIN is missing: %w", os.ErrPermission)
	}
	return errno
}

func marshalRule(f nft.Family, r nft.Rule) ([]byte, error) {
	exprs, err := encodeRule(f, r)
	if err != nil {
		return nil, err
	}
	return marshalExprs(f.Number(), exprs)
}

func marshalExprs(family uint8, exprs []expr.Any) ([]byte, error) {
	var m nlmsg.Message
	for _, e := range exprs {
		data, err := expr.Marshal(family, e)
		if err != nil {
			return nil, err
		}
		m.Bytes(unix.NFTA_LIST_ELEM|nlmsg.NestedFlag, data)
	}
	return m.Buf, nil
}
