package trace

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// Tracing selects the packets that a Tracer traces: first packets of new connections.
type Tracing struct {
	// To are the destinations, before translation.
	To []Destination
	// From, if valid, is the prefix that the sources are in.
	From netip.Prefix
	// Count is the largest number of packets to trace, 1 to MaxTraced.
	Count uint32
	// Timeout is when tracing ends, even if this process was killed.
	Timeout time.Duration
}

// Destination is an address, a port and a protocol: a frontend, or an address and port that no Service has.
type Destination struct {
	netip.AddrPort
	Protocol nft.Protocol
}

// String returns "address:port/protocol".
func (d Destination) String() string { return d.AddrPort.String() + "/" + d.Protocol.String() }

// MaxTraced is the largest Count: the kernel stores Count weeks in nanoseconds (nft_limit_init in
// net/netfilter/nft_limit.c).
const MaxTraced = 10_000

// Tracer is a table whose rules switch tracing on (nftrace). It exists until Close or the end of this process.
type Tracer struct {
	conn   *nftables.Conn
	table  *nftables.Table
	sets   map[nft.Family]*nftables.Set
	chains map[string]*nftables.Chain // by name
}

// StartTracer begins to trace in the calling thread's network namespace.
//
// The table has the family inet, so that Count holds for both families together. Its name ends with the port ID of the
// netlink socket, which is unique in the namespace. The socket owns the table: other programs cannot change it, and the
// kernel removes it when the socket is closed, even if the process is killed (NFT_TABLE_F_OWNER, nft_rcv_nl_event in
// net/netfilter/nf_tables_api.c, Linux 5.12). On an older kernel Close removes the table; after a SIGKILL the table
// remains, but traces nothing after the Timeout.
func StartTracer(what Tracing) (*Tracer, error) {
	if what.Count == 0 || what.Count > MaxTraced {
		return nil, fmt.Errorf("trace %d packets: the count must be 1 to %d", what.Count, MaxTraced)
	}
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	port, err := c.GetPortID()
	if err != nil {
		return nil, errors.Join(err, c.CloseLasting())
	}
	t := &Tracer{conn: c, table: &nftables.Table{Family: nftables.TableFamilyINet, Name: fmt.Sprint(TablePrefix, port)}}
	t.table.Flags = nftables.TableFlagOwner
	err = t.add(what)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // nf_tables_newtable before Linux 5.12
		t.table.Flags = 0
		err = t.add(what)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("add table inet %s: %w", t.table.Name, err), c.CloseLasting())
	}
	return t, nil
}

// Table returns the name of the table. Its family is inet.
func (t *Tracer) Table() string { return t.table.Name }

// Close removes the table, if it still exists.
func (t *Tracer) Close() error {
	t.conn.DelTable(t.table)
	err := t.conn.Flush()
	if errors.Is(err, unix.ENOENT) { // other programs can remove a table without an owner
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("delete table inet %s: %w", t.table.Name, err)
	}
	return errors.Join(err, t.conn.CloseLasting())
}

// add adds the whole table, which nft lists as
//
//	table inet nfproxy-trace-1234 {
//		flags owner
//		set to-ip { type ipv4_addr . inet_proto . inet_service; flags timeout; elements = { … timeout 30s } }
//		set to-ip6 …
//		chain tracing { limit rate 1/week burst 10 packets meta nftrace set 1 }
//		chain first {
//			ip saddr 10.0.0.0/8 ip daddr . meta l4proto . th dport @to-ip ct status ! confirmed goto tracing
//			…
//		}
//		chain prerouting { type filter hook prerouting priority -199; policy accept; goto first }
//		chain output …
//		chain leaving { type filter hook postrouting priority 2147483646; policy accept; }
//		chain arriving { type filter hook input priority 2147483646; policy accept; }
//	}
func (t *Tracer) add(what Tracing) error {
	t.conn.CreateTable(t.table)
	t.sets, t.chains = make(map[nft.Family]*nftables.Set), make(map[string]*nftables.Chain)
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		if err := t.addDestinations(f, what); err != nil {
			return err
		}
	}
	t.addChain(TracingChain, nil, 0)
	t.addChain("first", nil, 0)
	t.addChain("prerouting", nftables.ChainHookPrerouting, afterConntrack)
	t.addChain("output", nftables.ChainHookOutput, afterConntrack)
	t.addChain(LeavingChain, nftables.ChainHookPostrouting, last)
	t.addChain(ArrivingChain, nftables.ChainHookInput, last)
	t.addRules(what)
	return t.conn.Flush()
}

// Priorities of the base chains (include/uapi/linux/netfilter_ipv4.h): after connection tracking at -200, which tells
// whether a packet is the first of a connection; and after all other chains.
const (
	afterConntrack nftables.ChainPriority = -199
	last           nftables.ChainPriority = math.MaxInt32 - 1
)

// addChain adds a chain; with a hook, a base chain.
func (t *Tracer) addChain(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) {
	c := &nftables.Chain{Table: t.table, Name: name}
	if hook != nil {
		accept := nftables.ChainPolicyAccept
		c.Hooknum, c.Priority, c.Type, c.Policy = hook, &priority, nftables.ChainTypeFilter, &accept
	}
	t.chains[name] = t.conn.AddChain(c)
}

// addDestinations adds the set of one family's destinations. The elements expire after the Timeout.
func (t *Tracer) addDestinations(f nft.Family, what Tracing) error {
	addr := nftables.TypeIPAddr
	if f == nft.IPv6 {
		addr = nftables.TypeIP6Addr
	}
	key, err := nftables.ConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return err
	}
	t.sets[f] = &nftables.Set{Table: t.table, Name: "to-" + f.String(), KeyType: key, Concatenation: true, HasTimeout: true,
		KeyByteOrder: binaryutil.BigEndian}
	var elements []nftables.SetElement
	for _, to := range what.To {
		if to.Addr().Is4() != (f == nft.IPv4) {
			continue
		}
		k := append(to.Addr().AsSlice(), byte(to.Protocol), 0, 0, 0, byte(to.Port()>>8), byte(to.Port()), 0, 0) // padded to 4 bytes each
		elements = append(elements, nftables.SetElement{Key: k, Timeout: what.Timeout})
	}
	return t.conn.AddSet(t.sets[f], elements)
}

// addRules adds the rules of all chains.
func (t *Tracer) addRules(what Tracing) {
	add := func(chain string, exprs ...expr.Any) {
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: t.chains[chain], Exprs: exprs})
	}
	// The limit admits Count packets at first, and one more after a week (nft_limit_eval in net/netfilter/nft_limit.c).
	add(TracingChain, &expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeWeek, Burst: what.Count},
		&expr.Immediate{Register: reg, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: reg})
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		if !what.From.IsValid() || what.From.Addr().Is4() == (f == nft.IPv4) {
			add("first", t.matchFirst(f, what.From)...)
		}
	}
	for _, hook := range []string{"prerouting", "output"} {
		add(hook, &expr.Verdict{Kind: expr.VerdictGoto, Chain: "first"})
	}
}

// reg is the first 16-byte register. A lookup reads its key from this register on.
const reg = unix.NFT_REG_1

// ipsConfirmed is IPS_CONFIRMED of include/uapi/linux/netfilter/nf_conntrack_common.h. It is set for a connection whose
// first packet passed all hooks.
const ipsConfirmed = 1 << 3

// matchFirst matches first packets of connections to a destination of the family: the packets that chains of type nat see.
func (t *Tracer) matchFirst(f nft.Family, from netip.Prefix) []expr.Any {
	source, destination, size := uint32(12), uint32(16), uint32(4) // struct iphdr
	if f == nft.IPv6 {
		source, destination, size = 8, 24, 16 // struct ipv6hdr
	}
	network := func(offset, to uint32) expr.Any {
		return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size, DestRegister: to}
	}
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{f.Number()}},
	}
	if from.IsValid() {
		exprs = append(append(exprs, network(source, reg)), matchPrefix(from.Masked())...)
	}
	after := unix.NFT_REG32_00 + size/4 // the 4-byte register after the address
	return append(exprs,
		network(destination, reg),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: after},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: after + 1},
		&expr.Lookup{SourceRegister: reg, SetName: t.sets[f].Name, SetID: t.sets[f].ID},
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsConfirmed),
			Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictGoto, Chain: TracingChain})
}

// matchPrefix compares the address in the first register with a prefix.
func matchPrefix(p netip.Prefix) []expr.Any {
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
