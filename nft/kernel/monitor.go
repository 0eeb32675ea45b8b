package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/nlmsg"
)

// Watch hears what others change in tables. What its Conn changes it does not hear of.
type Monitor struct {
	nl     *nlmsg.Socket
	tables []nft.TableID
	seen   ExternalChange // of the commit whose messages are coming in
	missed atomic.Bool    // Next is to say that there was more than could be read
}

// Intrusion is a change that somebody else made to the tables.
type ExternalChange struct {
	// First says what changed first, as far as the kernel tells: "delete element ip nfproxy services". Count is how many
	// sets of elements, rules, chains, sets and tables were changed.
	First string
	Count int
	// By is the process that did it and its number.
	By string
	// Missed says that there was more than could be read: what changed, and whether anything of the tables did, is
	// unknown.
	Missed bool
}

// String says it in words.
func (i ExternalChange) String() string {
	if i.Missed {
		return "more changes than could be read"
	}
	text := fmt.Sprintf("%s, by %s", i.First, i.By)
	if i.Count > 1 {
		text = fmt.Sprintf("%s and %d more, by %s", i.First, i.Count-1, i.By)
	}
	return text
}

// Watch begins to watch tables of the calling thread's network namespace, which must be that of the Conn.
func (c *Conn) Monitor(tables ...nft.TableID) (*Monitor, error) {
	s, err := nlmsg.Dial()
	if err != nil {
		return nil, err
	}
	w := &Monitor{nl: s, tables: tables}
	filter, err := bpf.Assemble(notFrom(c.nl.PID()))
	if err == nil {
		err = w.nl.SetBPF(filter)
	}
	if err == nil {
		err = w.nl.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	c.monitor = w
	return w, nil
}

// manyElements is how many elements a batch of ours has at least before the Watch turns away from it. For every element
// the kernel makes a message of a page if anybody listens, before it looks who does (nf_tables_setelem_notify in
// net/netfilter/nf_tables_api.c): a first load of 10,000 Services would take 300 MB for a moment.
const manyElements = 1000

// turnAway does not listen while f makes a batch of n elements through the Conn, if that is many. If anybody else
// committed meanwhile, which the generation tells, Next says that it has missed something. A nil Watch does nothing.
func (w *Monitor) pauseDuring(c *Conn, n int, f func() error) error {
	if w == nil || n < manyElements {
		return f()
	}
	commits := c.commits
	before, err := c.Generation()
	if err == nil {
		err = w.nl.LeaveGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	failed := f()
	if err := w.nl.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return errors.Join(failed, fmt.Errorf("watch nftables: %w", err))
	}
	after, err := c.Generation()
	if err != nil || after-before != c.commits-commits {
		w.missed.Store(true)
		err = w.nl.SetReadDeadline(time.Now()) // wakes Next
	}
	return errors.Join(failed, err)
}

// notFrom lets pass what another socket than that of port caused. The kernel puts it into every message of a commit
// (nf_tables_commit_notify and nf_tables_fill_gen_info in net/netfilter/nf_tables_api.c), and several messages in one
// datagram are of one commit. Dropped in the kernel, a first load of ours does not fill the receive buffer.
func notFrom(port uint32) []bpf.Instruction {
	const portOffset = 12 // nlmsg_pid in struct nlmsghdr
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: portOffset, Size: 4}, // as if in network byte order, which it is not
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(nlmsg.NativeBytes(port)), SkipTrue: 1},
		bpf.RetConstant{Val: ^uint32(0)},
		bpf.RetConstant{Val: 0},
	}
}

// Close ends the Watch.
func (w *Monitor) Close() error { return w.nl.Close() }

// Next blocks until somebody else has changed something of the tables. After Close it returns an error that is
// os.ErrClosed.
func (w *Monitor) Next() (ExternalChange, error) {
	for {
		b, err := w.nl.Receive(true)
		switch {
		case w.missed.CompareAndSwap(true, false):
			if err := w.nl.SetReadDeadline(time.Time{}); err != nil {
				return ExternalChange{}, fmt.Errorf("watch nftables: %w", err)
			}
			fallthrough
		case errors.Is(err, unix.ENOBUFS):
			w.seen = ExternalChange{}
			return ExternalChange{Missed: true}, nil
		case err != nil:
			return ExternalChange{}, fmt.Errorf("watch nftables: %w", err)
		}
		if found, ok := w.take(b); ok {
			return found, nil
		}
	}
}

// take reads a datagram. A commit's changes come first, its number and author last.
func (w *Monitor) take(b []byte) (found ExternalChange, ok bool) {
	for h, body := range nlmsg.Messages(b) {
		if h.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(body) < nlmsg.NFGenLen {
			continue
		}
		family, kind, body := body[0], h.Type&0xff, body[nlmsg.NFGenLen:]
		if kind == unix.NFT_MSG_NEWGEN {
			if w.seen.Count > 0 {
				found, ok = w.seen, true
				found.By = author(body)
			}
			w.seen = ExternalChange{}
			continue
		}
		i := slices.IndexFunc(w.tables, func(id nft.TableID) bool {
			return id.Family.Number() == family && id.Name == tableOf(body)
		})
		if i < 0 {
			continue
		}
		if w.seen.Count++; w.seen.Count == 1 {
			w.seen.First = fmt.Sprintf("%s %s%s", eventName(kind), w.tables[i], objectOf(kind, body))
		}
	}
	return found, ok
}

// tableOf is the name of the table that a notification is about: the first attribute of every kind of object
// (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on in include/uapi/linux/netfilter/nf_tables.h).
func tableOf(body []byte) string {
	for kind, b := range nlmsg.Attributes(body) {
		if kind == 1 {
			return nlmsg.CString(b)
		}
	}
	return ""
}

// objectOf is the name of the chain, set or rule's chain of a notification, with a space before it.
func objectOf(event uint16, body []byte) string {
	name := uint16(unix.NFTA_SET_NAME) // NFTA_RULE_CHAIN and NFTA_SET_ELEM_LIST_SET have the same number
	if event == unix.NFT_MSG_NEWCHAIN || event == unix.NFT_MSG_DELCHAIN {
		name = unix.NFTA_CHAIN_NAME
	}
	if event == unix.NFT_MSG_NEWTABLE || event == unix.NFT_MSG_DELTABLE {
		return ""
	}
	for kind, b := range nlmsg.Attributes(body) {
		if kind == name {
			return " " + nlmsg.CString(b)
		}
	}
	return ""
}

// eventName is a notification's kind as nft says it.
func eventName(kind uint16) string {
	switch kind {
	case unix.NFT_MSG_NEWTABLE:
		return "add table"
	case unix.NFT_MSG_DELTABLE:
		return "delete table"
	case unix.NFT_MSG_NEWCHAIN:
		return "add chain"
	case unix.NFT_MSG_DELCHAIN:
		return "delete chain"
	case unix.NFT_MSG_NEWRULE:
		return "add rule"
	case unix.NFT_MSG_DELRULE:
		return "delete rule"
	case unix.NFT_MSG_NEWSET:
		return "add set"
	case unix.NFT_MSG_DELSET:
		return "delete set"
	case unix.NFT_MSG_NEWSETELEM:
		return "add element"
	case unix.NFT_MSG_DELSETELEM:
		return "delete element"
	}
	return fmt.Sprintf("change (message %d) of", kind)
}

// author is who made a commit: the name and the number of the process (NFTA_GEN_PROC_NAME, NFTA_GEN_PROC_PID).
func author(body []byte) string {
	const procPID, procName = 2, 3
	name, pid := "unknown", uint64(0)
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case procPID:
			pid = nlmsg.Number(b)
		case procName:
			name = nlmsg.CString(b)
		}
	}
	return fmt.Sprintf("%s (pid %d)", name, pid)
}
