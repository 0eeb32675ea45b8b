package kernel

// Apply and the delivery of a batch to the kernel.

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// Apply applies changes to any number of tables. Without changes it sends nothing. In general it commits one transaction:
// all changes or none. Some changes need more, so that Apply takes these steps:
//
//  1. If nft.DynamicElements are deleted, their maps are listed: the kernel deletes elements only by key. If there are
//     more elements than forgetWithRules, or listing takes too long, some maps are left to step 5.
//  2. If elements are replaced in a set that counts, the counters of the set's replaced and deleted elements are read.
//     They continue in the new elements with the same counter key (see CounterKey).
//  3. The main transaction contains all changes but those of the next two steps, and deletes the elements of step 1.
//  4. Base chains that are added, with their rules, follow in a second transaction, because elements of interval sets
//     take effect later than rules. This does not apply if a table is deleted: then a table is replaced, and the new one
//     must have its base chains at the moment when the old one goes.
//  5. If there are changes of nft.DynamicElements, each map is listed after the commit. Elements that step 3 did not
//     delete, or that packets have added since, are deleted, and elements get their new timeout, in transactions of
//     bounded size. This ends after settleTime: if Unsettled returns true, the caller continues with Settle.
//
// An element that has expired meanwhile makes no transaction fail.
//
// If generation is not 0, the kernel refuses the main transaction with ErrStale if the ruleset has changed since that
// generation.
//
// The error is ErrStale or a *ChangeError if the kernel refused the main transaction, and wraps ErrNoRoom if there is no memory for
// it: then nothing was applied. After any other error the state of the kernel is unknown and must be read again.
//
// If the Conn has a Monitor, it is paused during a large batch; see Monitor. If it could not be resumed afterwards, Apply
// returns an error and applies nothing until the Monitor receives notifications again.
func (c *Conn) Apply(changes []nft.Change, generation uint32) error {
	if c.monitored != nil {
		if err := c.monitored.rejoin(); err != nil {
			return err
		}
	}
	if c.monitored == nil || nft.ElementOperations(changes) < largeBatch {
		return c.applyInSteps(changes, generation)
	}
	p, err := c.pauseMonitor()
	if err != nil {
		return err
	}
	return errors.Join(c.applyInSteps(changes, generation), p.resume())
}

func (c *Conn) applyInSteps(changes []nft.Change, generation uint32) error {
	dynamic, changes := splitDynamic(changes)
	deletions, dynamic, err := c.forgettable(dynamic)
	if err != nil {
		return err
	}
	s := inStages(changes)
	if generation, err = c.transactAdditions(s.added, generation); err != nil {
		return err
	}
	first, hooks := hooksLast(s.main)
	if len(deletions) == 0 && inParts(first, hooks) {
		err = c.transactInParts(first, generation)
	} else {
		err = c.transactForgetting(first, deletions, generation)
	}
	if err != nil {
		return c.withdraw(s.added, err)
	}
	if err := c.transact(hooks, 0); err != nil {
		return partly(changes, err)
	}
	if err := c.transactDeletions(s.deleted); err != nil {
		return partly(changes, err)
	}
	if c.unsettled = append(c.unsettled, dynamic...); len(dynamic) == 0 {
		return nil
	}
	if err := c.Settle(settleTime); err != nil {
		return partly(changes, err)
	}
	return nil
}

// partly returns an error for a transaction that failed after another one. It does not wrap the cause: the changes as a whole have
// neither been applied nor refused.
func partly(before []nft.Change, err error) error {
	if len(before) == 0 {
		return err
	}
	return errors.New(err.Error())
}

// transactForgetting commits the changes together with deletions of dynamic elements. If the kernel refuses these because an
// element has expired, it commits the changes without them.
func (c *Conn) transactForgetting(changes, deletions []nft.Change, generation uint32) error {
	err := c.transact(slices.Concat(changes, deletions), generation)
	var refusal *ChangeError
	if len(deletions) == 0 || !errors.As(err, &refusal) || !errors.Is(err, unix.ENOENT) {
		return err
	}
	e, ok := refusal.Change.Object.(nft.Elements)
	if !ok || !e.Set.Dynamic {
		return err
	}
	return c.transact(changes, generation)
}

// transact commits the changes in one transaction.
func (c *Conn) transact(changes []nft.Change, generation uint32) error {
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

// estimate returns about how many bytes the changes take: growing a large buffer in steps is expensive.
func estimate(changes []nft.Change) int {
	const perElement = 96
	return 4096 + perElement*nft.ElementOperations(changes)
}

// commit delivers the batch. If the kernel refuses it, the error names the change at fault.
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

// deliver ends the batch, sends it and returns the kernel's refusals. The kernel has answered when Send returns
// (netlink_unicast_kernel in net/netlink/af_netlink.c). It answers each message that it refuses, and the last one in any case: that
// answer, which comes after all others, or one about the whole batch proves that no answer is missing.
func (c *Conn) deliver(b *batch) ([]refusal, error) {
	b.requestAnswer()
	b.boundary(unix.NFNL_MSG_BATCH_END, 0)
	c.nl.Seq = b.first + uint32(len(b.origins))
	if cap(b.Buf) < 1<<20 { // do not keep the large buffer of a first load
		c.spare = b.Buf
	}
	if err := c.makeRoom(len(b.Buf)); err != nil {
		return nil, err
	}
	if err := c.nl.Send(b.Buf); err != nil {
		if isNoRoom(err) {
			err = fmt.Errorf("%w: %w", ErrNoRoom, err)
		}
		return nil, fmt.Errorf("send batch of %d bytes: %w", len(b.Buf), err)
	}
	var all []refusal
	for answered := len(b.origins) == 0; !answered; {
		datagrams, err := c.nl.ReceiveAnswer()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUnknown, err)
		}
		var refused []refusal
		refused, answered = b.answers(datagrams)
		all = append(all, refused...)
	}
	return all, nil
}

// errUnknown marks errors after which it is unknown whether the batch was committed.
var errUnknown = errors.New("no answer whether the kernel committed the batch")

// sendRoom is what the kernel needs in the send buffer beside a datagram (netlink_sendmsg in net/netlink/af_netlink.c).
const sendRoom = 32

// makeRoom enlarges the socket's send buffer for a datagram of n bytes.
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
		return fmt.Errorf("a batch of %d bytes needs CAP_NET_ADMIN outside of user namespaces, or a larger net.core.wmem_max: %w: %w",
			n, ErrNoRoom, unix.EMSGSIZE)
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
