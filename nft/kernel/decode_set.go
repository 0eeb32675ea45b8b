package kernel

// Declarations of sets from the kernel's messages.

import (
	"nfproxy/nft"
	"nfproxy/nlmsg"
	"slices"

	"golang.org/x/sys/unix"
)

// decodeSet decodes a NEWSET message. It ignores the set's userdata.
//
// A set with a property that nft.Set does not express, such as a default timeout, gets a key of type nft.UnknownType: it
// would otherwise be taken for a set of nfproxy, although its elements expire or do not fit. The elements of a Dynamic set expire
// anyway.
func decodeSet(f nft.Family, body []byte) *nft.Set {
	s := &nft.Set{Table: nft.TableID{Family: f}}
	var flags, keyLen, dataLen uint32
	foreign, expires := false, false
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_SET_TABLE:
			s.Table.Name = nlmsg.CString(b)
		case unix.NFTA_SET_NAME:
			s.Name = nlmsg.CString(b)
		case unix.NFTA_SET_KEY_TYPE:
			s.Key = typesOf(uint32(nlmsg.Number(b)))
		case unix.NFTA_SET_KEY_LEN:
			keyLen = uint32(nlmsg.Number(b))
		case unix.NFTA_SET_DATA_TYPE:
			s.Data = typesOf(uint32(nlmsg.Number(b)))
		case unix.NFTA_SET_DATA_LEN:
			dataLen = uint32(nlmsg.Number(b))
		case unix.NFTA_SET_DESC:
			for kind, b := range nlmsg.Attributes(b) {
				if kind == unix.NFTA_SET_DESC_SIZE {
					s.Size = uint32(nlmsg.Number(b))
				}
			}
		case unix.NFTA_SET_FLAGS:
			flags = uint32(nlmsg.Number(b))
			s.Anonymous = flags&unix.NFT_SET_ANONYMOUS != 0
			s.Interval = flags&unix.NFT_SET_INTERVAL != 0
			s.Dynamic = flags&unix.NFT_SET_EVAL != 0
		case setExpr:
			s.Counter, s.Limit = decodeCounter(b) != nil, decodeLimit(b)
			foreign = foreign || !s.Counter && s.Limit == nil
		case unix.NFTA_SET_TIMEOUT:
			expires = true
		case setExpressions, unix.NFTA_SET_OBJ_TYPE, unix.NFTA_SET_GC_INTERVAL, unix.NFTA_SET_POLICY:
			foreign = true // nfproxy writes none of these, and the kernel returns no defaults
		}
	}
	if s.Limit != nil && s.Data == nil && !s.Dynamic {
		s.Data = []nft.Type{nft.LimitType}
	}
	if foreign || expires && !s.Dynamic || flags != setFlags(s) || !fits(s.Key, keyLen) || !fits(s.Data, dataLen) {
		s.Key = []nft.Type{nft.UnknownType}
	}
	return s
}

// fits reports whether a key or data of the types has the size that the kernel reports. The kernel stores the types without
// interpreting them.
func fits(types []nft.Type, size uint32) bool {
	if types == nil || types[0] == nft.VerdictType || types[0] == nft.LimitType {
		return true
	}
	_, want := concatenation(types)
	return size == want && size <= registerBytes
}

// readable reports whether the elements of the set can be decoded.
func readable(s *nft.Set) bool {
	return len(s.Key) > 0 && !slices.Contains(s.Key, nft.UnknownType) && !slices.Contains(s.Data, nft.UnknownType)
}
