package kernel

// Declarations of sets as attributes.

import (
	"encoding/hex"
	"slices"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// addSet appends the attributes of a NEWSET message. id must be unique among the sets of a batch.
func addSet(m *nlmsg.Message, s *nft.Set, id uint32) {
	keyType, keyLen := concatenation(s.Key)
	m.String(unix.NFTA_SET_TABLE, s.Table.Name)
	m.String(unix.NFTA_SET_NAME, s.Name)
	m.Uint32(unix.NFTA_SET_FLAGS, setFlags(s))
	m.Uint32(unix.NFTA_SET_KEY_TYPE, keyType)
	m.Uint32(unix.NFTA_SET_KEY_LEN, keyLen)
	if s.IsMap() {
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
	if s.Limit != nil {
		at := m.Nest(setExpr)
		addLimit(m, *s.Limit)
		m.Unnest(at)
	}
}

func setFlags(s *nft.Set) uint32 {
	var flags uint32
	for _, f := range []struct {
		on   bool
		flag uint32
	}{
		{s.IsMap(), unix.NFT_SET_MAP},
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

// describeFields appends the lengths of the fields of a concatenation of intervals.
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

// setUserdata returns the userdata that nft stores with a set: byte orders and, for a set declared by typeof, the
// expressions. Without these expressions nft cannot print a key that contains a random number, and other userdata makes
// old versions crash. The bytes are those that nft 1.0.6 writes for the declaration that package nft prints.
func setUserdata(s *nft.Set) []byte {
	switch {
	case slices.Contains(s.Key, nft.SlotNumber):
		return typeofUserdata(s)
	case len(s.Key) > 1 && s.IsMap():
		return []byte{0, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0}
	case len(s.Key) > 1:
		return []byte{0, 4, 0, 0, 0, 0}
	}
	return append([]byte{0, 4}, nlmsg.NativeBytes(2)...) // NFTNL_UDATA_SET_KEYBYTEORDER, big endian
}

// typeofUserdata returns userdata for the key "ADDR . meta l4proto . th dport . numgen random mod 65535" with the data
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
