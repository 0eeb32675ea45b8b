package kernel

// Data types of sets: nft's numbers and the kernel's sizes.

import (
	"nfproxy/nft"
	"slices"

	"golang.org/x/sys/unix"
)

// The kernel stores a set's types for programs that print the set and does not interpret them. They are nft's numbers of
// its types, 6 bits for each field of a concatenation (enum datatypes in nftables' include/datatype.h).
const (
	typeBits    = 6
	typeVerdict = unix.NFT_DATA_VERDICT
)

// typeNumber returns nft's number of a type.
func typeNumber(t nft.Type) uint32 {
	switch t {
	case nft.SlotNumber:
		return 4
	case nft.IPv4Addr:
		return 7
	case nft.IPv6Addr:
		return 8
	case nft.InetProto:
		return 12
	case nft.InetService:
		return 13
	case nft.CtDirection:
		return 27
	case nft.VerdictType:
		return typeVerdict
	}
	return 0
}

// typeLen returns the size of a field of that type in registers, before padding, in bytes.
func typeLen(t nft.Type) uint32 {
	switch t {
	case nft.IPv4Addr, nft.SlotNumber:
		return 4
	case nft.IPv6Addr:
		return 16
	case nft.InetProto, nft.CtDirection:
		return 1
	case nft.InetService:
		return 2
	}
	return 0
}

// concatenation returns the type number of the fields and their size in bytes, with padding if there are several.
func concatenation(types []nft.Type) (number, size uint32) {
	for _, t := range types {
		number = number<<typeBits | typeNumber(t)
		size += padded(typeLen(t))
	}
	if len(types) == 1 {
		size = typeLen(types[0])
	}
	return number, size
}

// typesOf is the inverse of concatenation. Any type that package nft does not know is nft.UnknownType.
func typesOf(number uint32) []nft.Type {
	if number == typeVerdict {
		return []nft.Type{nft.VerdictType}
	}
	var types []nft.Type
	for ; number != 0; number >>= typeBits {
		found := nft.UnknownType
		for t := nft.IPv4Addr; t < nft.VerdictType; t++ {
			if typeNumber(t) == number&(1<<typeBits-1) {
				found = t
			}
		}
		types = append(types, found)
	}
	slices.Reverse(types)
	return types
}
