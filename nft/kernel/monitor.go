package kernel

// Notifications about changes by other programs.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// Monitor reports changes of tables by other programs. Changes by its Conn are not reported.
//
// During a large batch of the Conn the Monitor is paused: its socket leaves the multicast group. If another program
// commits during the pause, in whatever table, the Monitor reports missed changes.
type Monitor struct {
	*subscription
	tables  []nft.TableID
	named   []*nft.Set
	pending ExternalChange // of the commit whose end has not been received yet
}

// ExternalChange is one commit of another program that changed the tables.
type ExternalChange struct {
	// First is the first change, as far as the kernel tells: "delete element ip nfproxy services". Count is the number of
	// notifications about the tables: one for each table, chain, rule, set, or list of elements.
	First string
	Count int
	// By is the name and the number of the process that committed.
	By string
	// Elements are the keys of all changed elements, some perhaps twice, if the change consists of at most maxNamed elements of
	// the sets given to NameElements. Otherwise Elements is nil.
	Elements []nft.Elements
	// Missed reports that notifications were lost. Then the other fields are empty: it is unknown what was changed and
	// whether that concerns the tables.
	Missed bool

	unnamed bool // something was changed besides Elements
}

// maxNamed is the largest number of elements that an ExternalChange names.
const maxNamed = 1000

// String describes the change for the log.
func (x ExternalChange) String() string {
	if x.Missed {
		return "more changes than could be read"
	}
	text := fmt.Sprintf("%s, by %s", x.First, x.By)
	if x.Count > 1 {
		text = fmt.Sprintf("%s and %d more, by %s", x.First, x.Count-1, x.By)
	}
	return text
}

// Monitor begins to monitor tables of the calling thread's network namespace, which must be the Conn's. A Conn has at most
// one Monitor. It must not be closed while the Conn is in Apply, nor before its last Apply.
func (c *Conn) Monitor(tables ...nft.TableID) (*Monitor, error) {
	s, err := nlmsg.Dial()
	if err != nil {
		return nil, err
	}
	m := &Monitor{subscription: &subscription{nl: s}, tables: tables}
	filter, err := bpf.Assemble(exceptFrom(c.nl.PID()))
	if err == nil {
		err = s.SetBPF(filter)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("monitor nftables: set filter: %w", err)
	}
	if err := m.join(); err != nil {
		s.Close()
		return nil, err
	}
	c.monitored = m.subscription
	return m, nil
}

// NameElements has Next name the changed elements of sets. It must be called before Next.
func (m *Monitor) NameElements(sets ...*nft.Set) { m.named = sets }

// exceptFrom is a socket filter that drops messages about commits of one socket. The kernel puts the port ID of the
// socket that committed into every notification (nf_tables_commit_notify and nf_tables_fill_gen_info in
// net/netfilter/nf_tables_api.c), and all messages of a datagram belong to one commit. The filter looks at the first
// message only. It runs in the kernel, so that the Conn's own commits do not fill the receive buffer.
func exceptFrom(port uint32) []bpf.Instruction {
	const portOffset = 12 // nlmsg_pid in struct nlmsghdr
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: portOffset, Size: 4}, // converts from network byte order, although nlmsg_pid is in the CPU's
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(nlmsg.NativeBytes(port)), SkipTrue: 1},
		bpf.RetConstant{Val: ^uint32(0)},
		bpf.RetConstant{Val: 0},
	}
}

// Close closes the Monitor. A call of Next that waits returns.
func (m *Monitor) Close() error { return m.nl.Close() }

// Next blocks until another program has changed the tables, or until notifications were lost. After Close it returns an
// error that wraps os.ErrClosed.
func (m *Monitor) Next() (ExternalChange, error) {
	for {
		b, err := m.nl.Receive(true)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := m.clearMissed(); err != nil {
				return ExternalChange{}, err
			}
			return m.missed(), nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			return m.missed(), nil
		case err != nil:
			return ExternalChange{}, fmt.Errorf("monitor nftables: %w", err)
		}
		if found, ok := m.take(b); ok {
			return found, nil
		}
	}
}

// missed returns the report that notifications were lost, and drops what was received of an unfinished commit.
func (m *Monitor) missed() ExternalChange {
	m.pending = ExternalChange{}
	return ExternalChange{Missed: true}
}

// take decodes received datagrams. A commit is a series of notifications that ends with NFT_MSG_NEWGEN, which names the
// process. Several commits of one call become one ExternalChange, with the First, the Count and the process of the last.
func (m *Monitor) take(b []byte) (found ExternalChange, ok bool) {
	for h, body := range nlmsg.Messages(b) {
		if h.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(body) < nlmsg.NFGenLen {
			continue
		}
		family, kind, body := body[0], h.Type&0xff, body[nlmsg.NFGenLen:]
		if kind == unix.NFT_MSG_NEWGEN {
			if m.pending.Count > 0 {
				m.pending.By = author(body)
				found, ok = m.pending.after(found), true
			}
			m.pending = ExternalChange{}
			continue
		}
		i := slices.IndexFunc(m.tables, func(id nft.TableID) bool {
			return id.Family.Number() == family && id.Name == tableOf(body)
		})
		if i < 0 {
			continue
		}
		if m.pending.Count++; m.pending.Count == 1 {
			m.pending.First = fmt.Sprintf("%s %s%s", eventName(kind), m.tables[i], objectOf(kind, body))
		}
		m.name(m.tables[i], kind, body)
	}
	return found.withoutUnnamed(), ok
}

// name adds the elements of a notification to the pending change.
func (m *Monitor) name(t nft.TableID, kind uint16, body []byte) {
	i := -1
	if kind == unix.NFT_MSG_NEWSETELEM || kind == unix.NFT_MSG_DELSETELEM {
		set := setOf(body)
		i = slices.IndexFunc(m.named, func(s *nft.Set) bool { return s.Table == t && s.Name == set })
	}
	if i < 0 || m.pending.elements() >= maxNamed {
		m.pending.unnamed = true
		return
	}
	var keys []nft.Element
	for e := range listed(m.named[i], body) {
		keys = append(keys, nft.Element{Key: e.Key})
	}
	m.pending.Elements = append(m.pending.Elements, nft.Elements{Set: m.named[i], List: keys})
}

// elements counts the named elements.
func (x ExternalChange) elements() int {
	n := 0
	for _, e := range x.Elements {
		n += len(e.List)
	}
	return n
}

// after returns the change with the elements of an earlier one.
func (x ExternalChange) after(earlier ExternalChange) ExternalChange {
	x.Elements = append(earlier.Elements, x.Elements...)
	x.unnamed = x.unnamed || earlier.unnamed || x.elements() > maxNamed
	return x
}

// withoutUnnamed returns the change without its elements if they are not all that was changed.
func (x ExternalChange) withoutUnnamed() ExternalChange {
	if x.unnamed {
		x.Elements = nil
	}
	return x
}

// tableOf returns the name of the table of a notification, which is attribute 1 of every kind of object
// (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on in include/uapi/linux/netfilter/nf_tables.h).
func tableOf(body []byte) string {
	return attribute(body, unix.NFTA_TABLE_NAME)
}

// objectOf returns the name of the chain or set of a notification, or the chain of its rule, with a space before it.
func objectOf(event uint16, body []byte) string {
	name := ""
	switch event {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return ""
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		name = attribute(body, unix.NFTA_CHAIN_NAME)
	default:
		name = setOf(body)
	}
	if name == "" {
		return ""
	}
	return " " + name
}

// setOf returns the name of the set of a notification, or of the chain of its rule: NFTA_SET_NAME, NFTA_RULE_CHAIN and
// NFTA_SET_ELEM_LIST_SET are the same number.
func setOf(body []byte) string { return attribute(body, unix.NFTA_SET_NAME) }

// attribute returns a string among the attributes of a notification, "" if it is not there.
func attribute(body []byte, name uint16) string {
	for kind, b := range nlmsg.Attributes(body) {
		if kind == name {
			return nlmsg.CString(b)
		}
	}
	return ""
}

// eventName returns nft's words for a kind of notification.
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

// author returns the name and the number of the process that committed (NFTA_GEN_PROC_NAME, NFTA_GEN_PROC_PID).
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
