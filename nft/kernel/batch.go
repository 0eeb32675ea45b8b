package kernel

import (
	"errors"
	"fmt"
	"math"
	"syscall"

	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/nlmsg"
)

// batch is one transaction under construction: messages in one buffer, and for each the change it comes from.
type batch struct {
	nlmsg.Message
	first   uint32 // sequence number of the batch's begin
	origins []origin
	sets    uint32 // added so far
}

// origin says what a message is about.
type origin struct {
	change  int
	start   int  // of the message in the buffer
	first   int  // index in the change's list of the message's rule or first element
	doubled bool // every element takes two list entries
}

// maxElements keeps the list of elements in a message below what the length of an attribute can say, 64 KiB less one.
const maxElements = math.MaxUint16 - 2048

func (b *batch) begin(kind, flags uint16, family nft.Family, o origin) {
	b.open(kind, flags, family.Number(), o)
}

// open is begin for any family of netfilter.
func (b *batch) open(kind, flags uint16, family uint8, o origin) {
	o.start = len(b.Buf)
	b.origins = append(b.origins, o)
	b.Message.Begin(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, kind), unix.NLM_F_REQUEST|flags, b.first+uint32(len(b.origins)), family, 0)
}

// boundary appends NFNL_MSG_BATCH_BEGIN or _END. With a generation the kernel refuses the batch (ERESTART) when the
// ruleset is not at that generation any more.
func (b *batch) boundary(kind uint16, generation uint32) {
	b.Message.Begin(kind, unix.NLM_F_REQUEST, b.first, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	if generation != 0 {
		b.Uint32(unix.NFNL_BATCH_GENID, generation)
	}
	b.End()
}

// change appends the messages of one change.
func (b *batch) change(i int, c nft.Change) error {
	o := origin{change: i}
	switch obj := c.Object.(type) {
	case *nft.Table:
		b.table(o, c.Op, obj)
	case *nft.Set:
		b.set(o, c.Op, obj)
	case *nft.Chain:
		b.chain(o, c.Op, obj)
	case nft.Rules:
		return b.rules(o, c.Op, obj.Chain)
	case nft.Elements:
		return b.elements(o, c.Op, obj)
	default:
		return fmt.Errorf("%s: no message for %T", c, c.Object)
	}
	return nil
}

func (b *batch) table(o origin, op nft.Op, t *nft.Table) {
	if op == nft.Delete {
		b.begin(unix.NFT_MSG_DELTABLE, 0, t.Family, o)
		b.String(unix.NFTA_TABLE_NAME, t.Name)
		b.End()
		return
	}
	b.begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, t.Family, o)
	b.String(unix.NFTA_TABLE_NAME, t.Name)
	var flags uint32
	if t.Owner {
		flags = tableOwner
	}
	b.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	if t.Comment != "" {
		b.Bytes(tableUserdata, append([]byte{0, byte(len(t.Comment) + 1)}, t.Comment+"\x00"...))
	}
	b.End()
}

func (b *batch) set(o origin, op nft.Op, s *nft.Set) {
	if op == nft.Delete {
		b.begin(unix.NFT_MSG_DELSET, 0, s.Table.Family, o)
		b.String(unix.NFTA_SET_TABLE, s.Table.Name)
		b.String(unix.NFTA_SET_NAME, s.Name)
		b.End()
		return
	}
	b.sets++
	b.begin(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, s.Table.Family, o)
	addSet(&b.Message, s, b.sets)
	b.End()
}

func (b *batch) chain(o origin, op nft.Op, c *nft.Chain) {
	if op == nft.Delete {
		b.begin(unix.NFT_MSG_DELCHAIN, 0, c.Table.Family, o)
	} else {
		b.begin(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.Table.Family, o)
	}
	b.String(unix.NFTA_CHAIN_TABLE, c.Table.Name)
	b.String(unix.NFTA_CHAIN_NAME, c.Name)
	if op == nft.Add && c.Hook != nft.NoHook {
		hook := b.Nest(unix.NFTA_CHAIN_HOOK)
		b.Uint32(unix.NFTA_HOOK_HOOKNUM, hookNumber(c.Hook))
		b.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
		b.Unnest(hook)
		b.Uint32(unix.NFTA_CHAIN_POLICY, 1) // NF_ACCEPT
		b.String(unix.NFTA_CHAIN_TYPE, "nat")
	}
	b.End()
}

// rules appends all rules of a chain, or flushes it.
func (b *batch) rules(o origin, op nft.Op, c *nft.Chain) error {
	if op == nft.Delete {
		b.begin(unix.NFT_MSG_DELRULE, 0, c.Table.Family, o)
		b.String(unix.NFTA_RULE_TABLE, c.Table.Name)
		b.String(unix.NFTA_RULE_CHAIN, c.Name)
		b.End()
		return nil
	}
	for i, r := range c.Rules {
		o.first = i
		data, err := marshalRule(c.Table.Family, r)
		if err != nil {
			return fmt.Errorf("chain %s %s: %s: %w", c.Table, c.Name, r.Text(c.Table.Family), err)
		}
		b.begin(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, c.Table.Family, o)
		b.String(unix.NFTA_RULE_TABLE, c.Table.Name)
		b.String(unix.NFTA_RULE_CHAIN, c.Name)
		b.Bytes(unix.NFTA_RULE_EXPRESSIONS|nlmsg.NestedFlag, data)
		b.End()
	}
	return nil
}

func (b *batch) elements(o origin, op nft.Op, e nft.Elements) error {
	if op != nft.Delete && e.Set.IsVerdictMap() {
		for _, el := range e.List {
			if _, err := verdictCode(el.Data.Verdict().Kind); err != nil {
				return fmt.Errorf("%s: %w", nft.Change{Op: op, Object: nft.Elements{Set: e.Set, List: []nft.Element{el}}}, err)
			}
		}
	}
	if op != nft.Add {
		b.elementList(unix.NFT_MSG_DELSETELEM, 0, o, e)
	}
	if op != nft.Delete {
		b.elementList(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, o, e)
	}
	return nil
}

// elementList appends the elements in as many messages as they need.
func (b *batch) elementList(kind, flags uint16, o origin, e nft.Elements) {
	o.doubled = e.Set.Interval && len(e.Set.Key) == 1
	for i := 0; i < len(e.List); {
		o.first = i
		b.begin(kind, flags, e.Set.Table.Family, o)
		ofSet(e.Set)(&b.Message)
		list := b.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for ; i < len(e.List) && len(b.Buf)-list < maxElements; i++ {
			addElement(&b.Message, e.Set, e.List[i], kind != unix.NFT_MSG_NEWSETELEM)
		}
		b.Unnest(list)
		b.End()
	}
}

// element finds the element of a message that lies at an offset in it, -1 if that is no element.
func (b *batch) element(o origin, offset int) int {
	at := o.start + nlmsg.HeaderLen + nlmsg.NFGenLen
	end := o.start + int(nlmsg.NativeUint32(b.Buf[o.start:]))
	for at < end {
		n := int(uint16(nlmsg.NativeUint32(b.Buf[at:])))
		kind := uint16(nlmsg.NativeUint32(b.Buf[at:])>>16) & nlmsg.AttrTypeMask
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			at += nlmsg.Align(n)
			continue
		}
		return b.listIndex(o, at+nlmsg.AttrLen, at+n, o.start+offset)
	}
	return -1
}

// listIndex counts the list entries up to the one that begins at or holds position.
func (b *batch) listIndex(o origin, at, end, position int) int {
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

// refusal is one error message of the kernel.
type refusal struct {
	seq    uint32
	errno  syscall.Errno
	text   string // the kernel's own words, if it had any
	offset int    // of the fault in the message, 0 if not said
}

// refusals collects the error messages of a datagram (netlink(7); NLMSGERR_ATTR_* in include/uapi/linux/netlink.h).
func refusals(datagram []byte) []refusal {
	var all []refusal
	for h, body := range nlmsg.Messages(datagram) {
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
		if r.errno != 0 {
			all = append(all, r)
		}
	}
	return all
}

// errUnknown marks errors after which nobody knows whether the batch was committed.
var errUnknown = errors.New("the kernel did not say whether it committed")
