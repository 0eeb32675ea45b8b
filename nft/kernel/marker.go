package kernel

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// Marking says which packets a Marker marks for tracing: first packets of connections.
type Marking struct {
	// To are the destinations, as clients see them.
	To []MarkedDestination
	// From, if valid, is where they come from.
	From netip.Prefix
	// Count is how many are marked at most, MaxMarked at most.
	Count uint32
	// Timeout is after which time none is marked any more, whatever became of this process.
	Timeout time.Duration
}

// MarkedDestination is a protocol, an address and a port.
type MarkedDestination struct {
	Protocol nft.Protocol
	netip.AddrPort
}

// String returns "address:port/protocol".
func (d MarkedDestination) String() string { return d.AddrPort.String() + "/" + d.Protocol.String() }

// MaxMarked is the most that a Marker can count. The kernel keeps Count weeks in nanoseconds (nft_limit_init in
// net/netfilter/nft_limit.c).
const MaxMarked = 10_000

// Marker is a table that marks packets. It is the kernel's until Close, or until this process ends, however it ends.
type Marker struct {
	conn *Conn
	// Table is the table's name, of family inet.
	Table string
}

// Mark begins to mark in the calling thread's network namespace. The table is named by the socket's number, which
// nobody else in the namespace has.
//
// It is of family inet, so that the bound holds for both families together, and owned by the socket: nobody else
// changes it, and the kernel removes it when the socket is closed, as it is when the process is killed (NFT_TABLE_F_OWNER,
// nft_rcv_nl_event in net/netfilter/nf_tables_api.c, from Linux 5.12). A kernel that knows no owners takes the table
// without: then Close removes it, and after a SIGKILL it stays, but does nothing after the Timeout.
func Mark(what Marking) (*Marker, error) {
	if what.Count == 0 || what.Count > MaxMarked {
		return nil, fmt.Errorf("mark %d packets: it can be 1 to %d", what.Count, MaxMarked)
	}
	c, err := Open()
	if err != nil {
		return nil, err
	}
	m := &Marker{conn: c, Table: fmt.Sprint(nft.MarkerPrefix, c.nl.PID())}
	err = m.add(what, tableOwner)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // nf_tables_newtable before 5.12
		err = m.add(what, 0)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("add table inet %s: %w", m.Table, err)
	}
	return m, nil
}

// Close removes the table, if it is still there.
func (m *Marker) Close() error {
	b := m.conn.newBatch(nil, 0)
	b.open(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, origin{})
	b.str(unix.NFTA_TABLE_NAME, m.Table)
	b.end()
	err := m.transact(b)
	if errors.Is(err, unix.ENOENT) { // without an owner others can remove it
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("delete table inet %s: %w", m.Table, err)
	}
	return errors.Join(err, m.conn.Close())
}

// transact sends a batch of the marker's.
func (m *Marker) transact(b *batch) error {
	refused, err := m.conn.deliver(b)
	if err != nil || len(refused) == 0 {
		return err
	}
	return refused[0].errno
}

// tableOwner is NFT_TABLE_F_OWNER.
const tableOwner = 2

// add sends the whole table, which nft lists as
//
//	table inet nfproxy-trace-1234 {
//		flags owner
//		set to-ip { type ipv4_addr . inet_proto . inet_service; flags timeout; elements = { … timeout 30s } }
//		set to-ip6 …
//		chain marks { limit rate 1/week burst 10 packets meta nftrace set 1 }
//		chain first {
//			ip saddr 10.0.0.0/8 ip daddr . meta l4proto . th dport @to-ip ct status ! confirmed goto marks
//			…
//		}
//		chain prerouting { type filter hook prerouting priority -199; policy accept; goto first }
//		chain output …
//		chain leaving { type filter hook postrouting priority 2147483646; policy accept; }
//		chain arriving { type filter hook input priority 2147483646; policy accept; }
//	}
func (m *Marker) add(what Marking, flags uint32) error {
	b := m.conn.newBatch(nil, 0)
	b.open(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.NFPROTO_INET, origin{})
	b.str(unix.NFTA_TABLE_NAME, m.Table)
	b.uint32(unix.NFTA_TABLE_FLAGS, flags)
	b.end()
	for i, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		m.addDestinations(b, f, uint32(i+1), what)
	}
	for _, c := range []markerChain{{name: nft.MarkingChain}, {name: "first"},
		{"prerouting", unix.NF_INET_PRE_ROUTING, afterTracking}, {"output", unix.NF_INET_LOCAL_OUT, afterTracking},
		{nft.LeavingChain, unix.NF_INET_POST_ROUTING, last}, {nft.ArrivingChain, unix.NF_INET_LOCAL_IN, last}} {
		m.addChain(b, c)
	}
	if err := m.addRules(b, what); err != nil {
		return err
	}
	return m.transact(b)
}

// Priorities of the base chains (include/uapi/linux/netfilter_ipv4.h): after connection tracking, at -200, which knows
// whether a packet is a connection's first; and after everything else.
const (
	afterTracking = -199
	last          = math.MaxInt32 - 1
)

// markerChain is a chain of the table; without a priority none has a hook.
type markerChain struct {
	name     string
	hook     uint32
	priority int32
}

func (m *Marker) addChain(b *batch, c markerChain) {
	b.open(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.NFPROTO_INET, origin{})
	b.str(unix.NFTA_CHAIN_TABLE, m.Table)
	b.str(unix.NFTA_CHAIN_NAME, c.name)
	if c.priority != 0 {
		hook := b.nest(unix.NFTA_CHAIN_HOOK)
		b.uint32(unix.NFTA_HOOK_HOOKNUM, c.hook)
		b.uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		b.unnest(hook)
		b.uint32(unix.NFTA_CHAIN_POLICY, 1) // NF_ACCEPT
		b.str(unix.NFTA_CHAIN_TYPE, "filter")
	}
	b.end()
}

// addDestinations adds the set of a family's destinations, each of which is there for the Timeout alone.
func (m *Marker) addDestinations(b *batch, f nft.Family, id uint32, what Marking) {
	key := []nft.Type{f.AddrType(), nft.InetProto, nft.InetService}
	set := &nft.Set{Table: nft.TableID{Family: f, Name: m.Table}, Name: "to-" + f.String(), Key: key}
	keyType, keyLen := concatenation(key)
	b.open(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.NFPROTO_INET, origin{})
	b.str(unix.NFTA_SET_TABLE, m.Table)
	b.str(unix.NFTA_SET_NAME, set.Name)
	b.uint32(unix.NFTA_SET_FLAGS, unix.NFT_SET_TIMEOUT)
	b.uint32(unix.NFTA_SET_KEY_TYPE, keyType)
	b.uint32(unix.NFTA_SET_KEY_LEN, keyLen)
	b.uint32(unix.NFTA_SET_ID, id)
	b.bytes(unix.NFTA_SET_USERDATA, setUserdata(set))
	b.end()
	for _, to := range what.To {
		if to.Addr().Is4() != (f == nft.IPv4) {
			continue
		}
		b.open(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, unix.NFPROTO_INET, origin{})
		ofSet(set)(&b.message)
		list := b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		elem := b.nest(unix.NFTA_LIST_ELEM)
		addKey(&b.message, unix.NFTA_SET_ELEM_KEY, key, nft.Addr(to.Addr())+nft.Proto(to.Protocol)+nft.Port(to.Port()))
		b.uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(what.Timeout.Milliseconds()))
		b.unnest(elem)
		b.unnest(list)
		b.end()
	}
}

// addRules adds the rules of all chains.
func (m *Marker) addRules(b *batch, what Marking) error {
	var all []markerRule
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		if what.From.IsValid() && what.From.Addr().Is4() != (f == nft.IPv4) {
			continue
		}
		match, err := matchFirst(f, what.From)
		if err != nil {
			return err
		}
		all = append(all, markerRule{"first", match})
	}
	first, _ := encodeVerdict(nft.GotoChain("first"))
	all = append(all, markerRule{nft.MarkingChain, markRule(what.Count)}, markerRule{"prerouting", []expr.Any{first}},
		markerRule{"output", []expr.Any{first}})
	for _, r := range all {
		data, err := marshalExprs(unix.NFPROTO_INET, r.exprs)
		if err != nil {
			return err
		}
		b.open(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, unix.NFPROTO_INET, origin{})
		b.str(unix.NFTA_RULE_TABLE, m.Table)
		b.str(unix.NFTA_RULE_CHAIN, r.chain)
		b.bytes(unix.NFTA_RULE_EXPRESSIONS|nestedFlag, data)
		b.end()
	}
	return nil
}

type markerRule struct {
	chain string
	exprs []expr.Any
}

// markRule marks as many packets as the limit's bucket holds at first; a week later it would hold one more (nft_limit_eval
// in net/netfilter/nft_limit.c).
func markRule(count uint32) []expr.Any {
	return []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeWeek, Burst: count},
		&expr.Immediate{Register: unix.NFT_REG_1, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: unix.NFT_REG_1},
	}
}

// ipsConfirmed is IPS_CONFIRMED of include/uapi/linux/netfilter/nf_conntrack_common.h: a connection has it once its
// first packet got through.
const ipsConfirmed = 1 << 3

// matchFirst matches packets that begin connections to a destination of the family: those, and no other, that chains of
// type nat see.
func matchFirst(f nft.Family, from netip.Prefix) ([]expr.Any, error) {
	const reg = unix.NFT_REG_1
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{familyNumber(f)}},
	}
	if from.IsValid() {
		source, _, err := load(f, nft.Field{Kind: nft.SourceAddr}, reg)
		if err != nil {
			return nil, err
		}
		exprs = append(exprs, source)
		exprs = append(exprs, matchPrefix(from.Masked())...)
	}
	key, err := loadKey(f, []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.L4Protocol}, {Kind: nft.DestinationPort}})
	if err != nil {
		return nil, err
	}
	then, err := encodeVerdict(nft.GotoChain(nft.MarkingChain))
	return slices.Concat(exprs, key, []expr.Any{
		&expr.Lookup{SourceRegister: reg, SetName: "to-" + f.String()},
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: native(ipsConfirmed), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: native(0)},
		then,
	}), err
}

// matchPrefix compares the address in the first register with a prefix.
func matchPrefix(p netip.Prefix) []expr.Any {
	const reg = unix.NFT_REG_1
	size := p.Addr().BitLen() / 8
	equal := &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: p.Addr().AsSlice()}
	if p.IsSingleIP() {
		return []expr.Any{equal}
	}
	mask := make([]byte, size)
	for bit := range p.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return []expr.Any{&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(size), Mask: mask,
		Xor: make([]byte, size)}, equal}
}
