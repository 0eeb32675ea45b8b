package kernel

import (
	"encoding/hex"
	"slices"

	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/nlmsg"
)

// The kernel keeps a set's types for programs that print it and does not look at them. They are nft's numbers of its
// types, 6 bits for each field of a concatenation (enum datatypes in nftables' include/datatype.h).
const (
	typeBits    = 6
	typeVerdict = unix.NFT_DATA_VERDICT
)

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
	case nft.VerdictType:
		return typeVerdict
	}
	return 0
}

// typeLen is the size of a field of that type in registers, before padding.
func typeLen(t nft.Type) uint32 {
	switch t {
	case nft.IPv4Addr, nft.SlotNumber:
		return 4
	case nft.IPv6Addr:
		return 16
	case nft.InetProto:
		return 1
	case nft.InetService:
		return 2
	}
	return 0
}

// concatenation is the type number and the padded size of the fields.
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

// typesOf is concatenation's inverse. A type we do not know is nft.UnknownType.
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

// Attributes that golang.org/x/sys/unix does not have (include/uapi/linux/netfilter/nf_tables.h).
const (
	setDescConcat   = 2  // NFTA_SET_DESC_CONCAT
	setFieldLen     = 1  // NFTA_SET_FIELD_LEN
	setExpr         = 17 // NFTA_SET_EXPR
	setFlagConcat   = 0x80
	elemKeyEnd      = 10 // NFTA_SET_ELEM_KEY_END
	elemExpressions = 11 // NFTA_SET_ELEM_EXPRESSIONS
	tableUserdata   = 6  // NFTA_TABLE_USERDATA
	tableOwner      = 2  // NFT_TABLE_F_OWNER
)

// addSet fills in a NEWSET message. id tells the sets of one batch apart.
func addSet(m *nlmsg.Message, s *nft.Set, id uint32) {
	keyType, keyLen := concatenation(s.Key)
	m.String(unix.NFTA_SET_TABLE, s.Table.Name)
	m.String(unix.NFTA_SET_NAME, s.Name)
	m.Uint32(unix.NFTA_SET_FLAGS, setFlags(s))
	m.Uint32(unix.NFTA_SET_KEY_TYPE, keyType)
	m.Uint32(unix.NFTA_SET_KEY_LEN, keyLen)
	if s.Data != nil {
		dataType, dataLen := concatenation(s.Data)
		m.Uint32(unix.NFTA_SET_DATA_TYPE, dataType)
		m.Uint32(unix.NFTA_SET_DATA_LEN, dataLen)
	}
	m.Uint32(unix.NFTA_SET_ID, id)
	if s.Interval && len(s.Key) > 1 {
		describeFields(m, s.Key)
	}
	if s.Size > 0 {
		desc := m.Nest(unix.NFTA_SET_DESC)
		m.Uint32(unix.NFTA_SET_DESC_SIZE, s.Size)
		m.Unnest(desc)
	}
	m.Bytes(unix.NFTA_SET_USERDATA, setUserdata(s))
	if s.Counter {
		at := m.Nest(setExpr)
		m.String(unix.NFTA_EXPR_NAME, "counter")
		m.Unnest(m.Nest(unix.NFTA_EXPR_DATA))
		m.Unnest(at)
	}
}

func setFlags(s *nft.Set) uint32 {
	var flags uint32
	for _, f := range []struct {
		on   bool
		flag uint32
	}{
		{s.Data != nil, unix.NFT_SET_MAP},
		{s.Interval, unix.NFT_SET_INTERVAL},
		{s.Interval && len(s.Key) > 1, setFlagConcat},
		{s.Dynamic, unix.NFT_SET_EVAL},
		{s.Dynamic, unix.NFT_SET_TIMEOUT},
	} {
		if f.on {
			flags |= f.flag
		}
	}
	return flags
}

// describeFields tells the kernel where the fields of a concatenation of intervals lie.
func describeFields(m *nlmsg.Message, types []nft.Type) {
	desc := m.Nest(unix.NFTA_SET_DESC)
	concat := m.Nest(setDescConcat)
	for _, t := range types {
		elem := m.Nest(unix.NFTA_LIST_ELEM)
		m.Uint32(setFieldLen, typeLen(t))
		m.Unnest(elem)
	}
	m.Unnest(concat)
	m.Unnest(desc)
}

// setUserdata is what nft keeps with a set for itself: byte orders, and for a set declared by typeof the expressions.
// Without the latter nft cannot print a key that holds a random number, and other userdata makes old versions crash;
// these are the bytes nft 1.0.6 writes for the declaration that package nft prints.
func setUserdata(s *nft.Set) []byte {
	switch {
	case slices.Contains(s.Key, nft.SlotNumber):
		return typeofUserdata(s)
	case len(s.Key) > 1 && s.Data != nil:
		return []byte{0, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0}
	case len(s.Key) > 1:
		return []byte{0, 4, 0, 0, 0, 0}
	}
	return append([]byte{0, 4}, nlmsg.NativeBytes(2)...) // NFTNL_UDATA_SET_KEYBYTEORDER, big endian
}

// typeofUserdata describes the key "ADDR . meta l4proto . th dport . numgen random mod 65535" with the data
// "ADDR . th dport", ADDR being the family's daddr, in nftables' format (src/expression.c, concat_expr_build_udata).
func typeofUserdata(s *nft.Set) []byte {
	daddr := "0c00000001040c000000"
	if s.Table.Family == nft.IPv6 {
		daddr = "0d000000010409000000"
	}
	const (
		head    = "000400000000010400000000036000040d00000001580014000407000000010c0004"
		key     = "010e00040900000001060004100000000214000407000000010c00040b000000010402000000031a00041700000001120004010000000104ffff0000020400000000"
		data    = "043400040d000000012c0014000407000000010c0004"
		dataEnd = "0114000407000000010c00040b000000010402000000060400000000"
	)
	b, err := hex.DecodeString(head + daddr + key + data + daddr + dataEnd)
	if err != nil {
		panic("bug: " + err.Error())
	}
	return b
}

// decodeSet reads a NEWSET message. What its userdata say is not compared with ours.
func decodeSet(f nft.Family, body []byte) *nft.Set {
	s := &nft.Set{Table: nft.TableID{Family: f}}
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_SET_TABLE:
			s.Table.Name = nlmsg.CString(b)
		case unix.NFTA_SET_NAME:
			s.Name = nlmsg.CString(b)
		case unix.NFTA_SET_KEY_TYPE:
			s.Key = typesOf(uint32(nlmsg.Number(b)))
		case unix.NFTA_SET_DATA_TYPE:
			s.Data = typesOf(uint32(nlmsg.Number(b)))
		case unix.NFTA_SET_DESC:
			for kind, b := range nlmsg.Attributes(b) {
				if kind == unix.NFTA_SET_DESC_SIZE {
					s.Size = uint32(nlmsg.Number(b))
				}
			}
		case unix.NFTA_SET_FLAGS:
			flags := uint32(nlmsg.Number(b))
			s.Interval = flags&unix.NFT_SET_INTERVAL != 0
			s.Dynamic = flags&unix.NFT_SET_EVAL != 0
		case setExpr:
			s.Counter = true
		}
	}
	return s
}

// readable says whether elements of the set can be decoded.
func readable(s *nft.Set) bool {
	return len(s.Key) > 0 && !slices.Contains(s.Key, nft.UnknownType) && !slices.Contains(s.Data, nft.UnknownType)
}
