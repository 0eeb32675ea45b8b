package kernel

// Registers, and the expressions that load fields of a packet into them.

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// register returns the number of the register at an offset, in the form in which the kernel reports it: a 16 byte register
// if the offset is a multiple of 16, else a 4 byte register (nft_dump_register in net/netfilter/nf_tables_api.c).
func register(offset uint32) uint32 {
	if offset%16 == 0 {
		return unix.NFT_REG_1 + offset/16
	}
	return unix.NFT_REG32_00 + offset/4
}

// padded returns the space that n bytes take in registers and in keys.
func padded(n uint32) uint32 { return (n + 3) &^ 3 }

// load returns the expressions that load a field into a register, and the size of the field in bytes.
func load(f nft.Family, field nft.Field, reg uint32) ([]expr.Any, uint32, error) {
	if field.Kind == nft.ClientHash || field.Kind == nft.ConnectionHash {
		return loadHash(f, field, reg), hashLen, nil
	}
	e, n, err := loadOne(f, field, reg)
	return []expr.Any{e}, n, err
}

// loadOne is load for a field that one expression loads.
func loadOne(f nft.Family, field nft.Field, reg uint32) (expr.Any, uint32, error) {
	switch field.Kind {
	case nft.SourceAddr:
		return loadSource(f, reg), addrLen(f), nil
	case nft.DestinationAddr:
		return loadNetwork(f, reg, 16, 24), addrLen(f), nil
	case nft.L4Protocol:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, 1, nil
	case nft.DestinationPort: // at the same offset in TCP, UDP and SCTP
		return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, 2, nil
	case nft.RandomNumber:
		return &expr.Numgen{Register: reg, Modulus: field.Mod, Type: unix.NFT_NG_RANDOM}, 4, nil
	case nft.OriginalDestinationAddr:
		return &expr.Ct{Key: originalDestination(f), Register: reg, Direction: expr.CtDirOriginal}, addrLen(f), nil
	case nft.OriginalDestinationPort:
		return &expr.Ct{Key: expr.CtKeyPROTODST, Register: reg, Direction: expr.CtDirOriginal}, 2, nil
	case nft.PacketDirection:
		return &expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg}, 1, nil
	}
	return nil, 0, fmt.Errorf("no expression loads field %d", field.Kind)
}

func originalDestination(f nft.Family) expr.CtKey {
	if f == nft.IPv6 {
		return expr.CtKeyDSTIP6
	}
	return expr.CtKeyDSTIP
}

func addrLen(f nft.Family) uint32 {
	if f == nft.IPv6 {
		return 16
	}
	return 4
}

// loadSource returns the expression that loads the source address into a register.
func loadSource(f nft.Family, reg uint32) expr.Any { return loadNetwork(f, reg, 12, 8) }

// loadNetwork returns the expression that loads an address from the network header into a register: from the offset v4 in IPv4 (RFC 791
// section 3.1), and v6 in IPv6 (RFC 8200 section 3).
func loadNetwork(f nft.Family, reg, v4, v6 uint32) expr.Any {
	at := v4
	if f == nft.IPv6 {
		at = v6
	}
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: addrLen(f)}
}

// hashLen is the size of a hash in a register.
const hashLen = 4

// loadHash returns expressions that load the source address, and the source port of a ConnectionHash, and hash them into a register.
// nft chooses the same registers for the source.
func loadHash(f nft.Family, field nft.Field, reg uint32) []expr.Any {
	at, n := uint32(32), addrLen(f)
	if f == nft.IPv6 {
		at = 44
	}
	exprs := []expr.Any{loadSource(f, register(at))}
	if field.Kind == nft.ConnectionHash {
		const portLen = 2
		exprs = append(exprs, &expr.Payload{DestRegister: register(at + n), Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: portLen})
		n += padded(portLen)
	}
	return append(exprs, &expr.Hash{SourceRegister: register(at), DestRegister: reg, Length: n, Modulus: field.Mod,
		Seed: nft.HashSeed, Type: expr.HashTypeJenkins})
}

// loadKey returns expressions that load the fields side by side, from the first register on.
func loadKey(f nft.Family, key []nft.Field) ([]expr.Any, error) {
	exprs, _, err := loadAt(f, key, 0)
	return exprs, err
}

// loadAt returns expressions that load the fields side by side from an offset on, and the offset after them.
func loadAt(f nft.Family, key []nft.Field, offset uint32) ([]expr.Any, uint32, error) {
	var exprs []expr.Any
	for _, field := range key {
		e, n, err := load(f, field, register(offset))
		if err != nil {
			return nil, 0, err
		}
		exprs = append(exprs, e...)
		offset += padded(n)
	}
	return exprs, offset, nil
}
