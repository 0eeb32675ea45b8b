package kernel

// Rules as expressions, in the attributes of a message.

import (
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// encodeRule compiles a rule to expressions, in exactly the form in which the kernel returns them.
func encodeRule(f nft.Family, r nft.Rule) ([]expr.Any, error) {
	var exprs []expr.Any
	for _, m := range r.Match {
		e, err := encodeMatch(f, m)
		if err != nil {
			return nil, err
		}
		exprs = append(exprs, e...)
	}
	e, err := encodeAction(f, r.Do)
	if err != nil {
		return nil, err
	}
	return append(exprs, e...), nil
}

func encodeMatch(f nft.Family, m nft.Match) ([]expr.Any, error) {
	const reg = unix.NFT_REG_1
	switch m := m.(type) {
	case nft.In:
		key, err := loadKey(f, m.Key)
		return append(key, &expr.Lookup{SourceRegister: reg, SetName: m.Set, Invert: m.Not}), err
	case nft.OfProtocol:
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{byte(m.Protocol)}},
		}, nil
	case nft.CtStatusDNAT:
		return []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
			&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: nlmsg.NativeBytes(ipsDstNAT), Xor: nlmsg.NativeBytes(0)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: nlmsg.NativeBytes(ipsDstNAT)},
		}, nil
	case nft.FibDestinationLocal:
		op := expr.CmpOpEq
		if m.Not {
			op = expr.CmpOpNeq
		}
		return []expr.Any{
			&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true},
			&expr.Cmp{Op: op, Register: reg, Data: nlmsg.NativeBytes(unix.RTN_LOCAL)},
		}, nil
	case nft.EchoRequest:
		return encodeEchoRequest(f), nil
	case nft.InputInterface:
		return encodeInterface(m)
	case nft.OverLimit:
		key, err := loadKey(f, m.Key)
		return append(key, &expr.Dynset{SrcRegKey: reg, SetName: m.Set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: m.Timeout}), err
	case nft.CounterStatement:
		return []expr.Any{&expr.Counter{Packets: m.Packets, Bytes: m.Bytes}}, nil
	case nft.FibSourceLocal:
		return []expr.Any{
			&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: nlmsg.NativeBytes(unix.RTN_LOCAL)},
		}, nil
	}
	return nil, fmt.Errorf("no expression for %T", m)
}

// encodeEchoRequest compares the protocol and the type, the first byte of the ICMP header.
func encodeEchoRequest(f nft.Family) []expr.Any {
	echo := byte(8) // ICMP_ECHO of include/uapi/linux/icmp.h
	if f == nft.IPv6 {
		echo = 128 // ICMPV6_ECHO_REQUEST of include/uapi/linux/icmpv6.h
	}
	const reg = unix.NFT_REG_1
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{byte(f.ICMP())}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{echo}},
	}
}

// encodeInterface compares the whole name, with its padding, or only the bytes of a prefix.
func encodeInterface(m nft.InputInterface) ([]expr.Any, error) {
	if len(m.Name) == 0 || len(m.Name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("%q is not an interface name", m.Name)
	}
	name := []byte(m.Name)
	if !m.Prefix {
		name = append(name, make([]byte, unix.IFNAMSIZ-len(name))...)
	}
	op := expr.CmpOpEq
	if m.Not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: name},
	}, nil
}

// ipsDstNAT is IPS_DST_NAT of include/uapi/linux/netfilter/nf_conntrack_common.h.
const ipsDstNAT = 1 << 5

func encodeAction(f nft.Family, a nft.Action) ([]expr.Any, error) {
	const reg = unix.NFT_REG_1
	switch a := a.(type) {
	case nft.Verdict:
		v, err := encodeVerdict(a)
		return []expr.Any{v}, err
	case nft.VerdictMap:
		key, err := loadKey(f, a.Key)
		return append(key, &expr.Lookup{SourceRegister: reg, SetName: a.Map,
			DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true}), err
	case nft.DNAT:
		key, err := loadKey(f, a.Key)
		port := register(padded(addrLen(f)))
		return append(key,
			&expr.Lookup{SourceRegister: reg, SetName: a.Map, DestRegister: reg, IsDestRegSet: true},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.Number()), RegAddrMin: reg, RegAddrMax: reg,
				RegProtoMin: port, RegProtoMax: port, Specified: true}), err
	case nft.Redirect:
		return []expr.Any{&expr.Redir{}}, nil
	case nft.Reject:
		return []expr.Any{encodeReject(f, a)}, nil
	case nft.Update:
		return encodeUpdate(f, a)
	case nft.Masquerade:
		return []expr.Any{&expr.Masq{FullyRandom: true}}, nil
	}
	return nil, fmt.Errorf("no expression for %T", a)
}

// encodeUpdate loads the key and, from the next 16 byte register on, the data.
func encodeUpdate(f nft.Family, a nft.Update) ([]expr.Any, error) {
	key, end, err := loadAt(f, a.Key, 0)
	if err != nil {
		return nil, err
	}
	at := (end + 15) &^ 15
	data, _, err := loadAt(f, a.Data, at)
	if err != nil {
		return nil, err
	}
	exprs := slices.Concat(key, data, []expr.Any{&expr.Dynset{SrcRegKey: unix.NFT_REG_1, SrcRegData: register(at),
		SetName: a.Map, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: a.Timeout}})
	if a.Then == (nft.Verdict{}) {
		return exprs, nil
	}
	then, err := encodeVerdict(a.Then)
	return append(exprs, then), err
}

func encodeVerdict(v nft.Verdict) (*expr.Verdict, error) {
	code, err := verdictCode(v.Kind)
	return &expr.Verdict{Kind: expr.VerdictKind(code), Chain: v.Chain}, err
}

func encodeReject(f nft.Family, r nft.Reject) *expr.Reject {
	if r.TCPReset {
		return &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}
	}
	code := uint8(3) // ICMP_PORT_UNREACH
	if f == nft.IPv6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}
}

// verdictCode returns the number of a verdict: NF_ACCEPT, NF_DROP, or one of enum nft_verdicts.
func verdictCode(k nft.VerdictKind) (int32, error) {
	switch k {
	case nft.Accept:
		return 1, nil
	case nft.Drop:
		return 0, nil
	case nft.Return:
		return unix.NFT_RETURN, nil
	case nft.Jump:
		return unix.NFT_JUMP, nil
	case nft.Goto:
		return unix.NFT_GOTO, nil
	}
	return 0, fmt.Errorf("no code for verdict %d", k)
}

// VerdictOf returns the verdict with a number of NF_ACCEPT, NF_DROP or enum nft_verdicts. Any other verdict becomes a kind
// of 0x80 or more that keeps the number's low bits.
func VerdictOf(code int32) nft.VerdictKind {
	for k := nft.Accept; k <= nft.Goto; k++ {
		if c, _ := verdictCode(k); c == code {
			return k
		}
	}
	return nft.VerdictKind(0x80 | uint8(code))
}

// marshalRule returns the content of NFTA_RULE_EXPRESSIONS.
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
