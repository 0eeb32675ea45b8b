package kernel

// Tables from the kernel's messages.

import (
	"nfproxy/nft"
	"nfproxy/nlmsg"

	"golang.org/x/sys/unix"
)

// decodeTable sets the properties of a table to those in a NEWTABLE message.
func decodeTable(t *nft.Table, body []byte) {
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_TABLE_FLAGS:
			t.Dormant = nlmsg.Number(b)&unix.NFT_TABLE_F_DORMANT != 0
		case tableUserdata:
			t.Comment = comment(b)
		}
	}
}
