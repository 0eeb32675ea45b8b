package kernel

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// A batch: the messages of one transaction.

// batch is one transaction under construction: messages in one buffer, and the origin of each.
type batch struct {
	nlmsg.Message
	first   uint32   // sequence number of the message that begins the batch
	origins []origin // of the messages with the sequence numbers first+1, first+2, ...
	sets    uint32   // number of sets added so far
}

// origin tells from which change a message comes.
type origin struct {
	change  int  // index in the list of changes
	start   int  // of the message in the buffer
	first   int  // index, in the change's list, of the message's rule or first element
	doubled bool // every element takes two list entries
}

// maxListLen bounds the list of elements in a message: the length of an attribute is a uint16.
const maxListLen = math.MaxUint16 - 2048

// begin begins a message of nf_tables and records its origin.
func (b *batch) begin(kind, flags uint16, family nft.Family, o origin) {
	o.start = len(b.Buf)
	b.origins = append(b.origins, o)
	b.Message.Begin(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, kind), unix.NLM_F_REQUEST|flags, b.first+uint32(len(b.origins)),
		family.Number(), 0)
}

// boundary appends NFNL_MSG_BATCH_BEGIN or NFNL_MSG_BATCH_END. If generation is not 0, the kernel refuses the batch with
// ERESTART unless the ruleset is at that generation.
func (b *batch) boundary(kind uint16, generation uint32) {
	b.Message.Begin(kind, unix.NLM_F_REQUEST, b.first, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	if generation != 0 {
		b.Uint32(unix.NFNL_BATCH_GENID, generation)
	}
	b.End()
}

// requestAnswer makes the kernel answer the last message even if it accepts it.
func (b *batch) requestAnswer() {
	if len(b.origins) > 0 {
		flags := b.Buf[b.origins[len(b.origins)-1].start+6:] // nlmsg_flags in struct nlmsghdr
		binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	}
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

// rules appends the rules of a chain, or the message that flushes it.
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

// elements appends the messages for a list of elements. Replaced elements are deleted and added again: the kernel cannot
// change an element.
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

// elementList appends a list of elements in as many messages as it needs.
func (b *batch) elementList(kind, flags uint16, o origin, e nft.Elements) {
	o.doubled = e.Set.Interval && len(e.Set.Key) == 1
	for i := 0; i < len(e.List); {
		o.first = i
		b.begin(kind, flags, e.Set.Table.Family, o)
		ofSet(e.Set)(&b.Message)
		list := b.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for ; i < len(e.List) && len(b.Buf)-list < maxListLen; i++ {
			addElement(&b.Message, e.Set, e.List[i], kind != unix.NFT_MSG_NEWSETELEM)
		}
		b.Unnest(list)
		b.End()
	}
}
