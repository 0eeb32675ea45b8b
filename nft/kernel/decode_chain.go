package kernel

// Chains from the kernel's messages, and the numbers of hooks.

import (
	"nfproxy/nft"
	"nfproxy/nlmsg"

	"golang.org/x/sys/unix"
)

// decodeChain decodes a NEWCHAIN message.
func decodeChain(f nft.Family, body []byte) *nft.Chain {
	c := &nft.Chain{Table: nft.TableID{Family: f}}
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			c.Table.Name = nlmsg.CString(b)
		case unix.NFTA_CHAIN_NAME:
			c.Name = nlmsg.CString(b)
		case unix.NFTA_CHAIN_HOOK:
			for kind, b := range nlmsg.Attributes(b) {
				switch kind {
				case unix.NFTA_HOOK_HOOKNUM:
					c.Hook = hookOf(uint32(nlmsg.Number(b)))
				case unix.NFTA_HOOK_PRIORITY:
					c.Priority = int32(nlmsg.Number(b))
				}
			}
		}
	}
	return c
}

// hookNumber returns the hook's number in enum nf_inet_hooks of include/uapi/linux/netfilter.h.
func hookNumber(h nft.Hook) uint32 {
	return [...]uint32{nft.Prerouting: unix.NF_INET_PRE_ROUTING, nft.Input: unix.NF_INET_LOCAL_IN, nft.Output: unix.NF_INET_LOCAL_OUT,
		nft.Postrouting: unix.NF_INET_POST_ROUTING}[h]
}

// hookOf is the inverse of hookNumber. Any hook that nft.Hook does not name is nft.OtherHook.
func hookOf(number uint32) nft.Hook {
	for h := nft.Prerouting; h <= nft.Postrouting; h++ {
		if hookNumber(h) == number {
			return h
		}
	}
	return nft.OtherHook
}
