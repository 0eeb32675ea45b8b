package kernel

// Declarations of sets from the kernel's messages.

import (
	"nfproxy/nft"
	"nfproxy/nlmsg"
	"slices"

	"golang.org/x/sys/unix"
)

// decodeSet decodes a NEWSET message. It ignores the set's userdata.
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

// readable reports whether the elements of the set can be decoded.
func readable(s *nft.Set) bool {
	return len(s.Key) > 0 && !slices.Contains(s.Key, nft.UnknownType) && !slices.Contains(s.Data, nft.UnknownType)
}
