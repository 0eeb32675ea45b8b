package kernel

// Chains from the kernel's messages, and the numbers of hooks.

import (
	"nfproxy/nft"
	"nfproxy/nlmsg"

	"golang.org/x/sys/unix"
)

// decodeChain decodes a NEWCHAIN message. A base chain of another type than nat, or with another policy than accept, gets the
// hook nft.OtherHook.
func decodeChain(f nft.Family, body []byte) *nft.Chain {
	c := &nft.Chain{Table: nft.TableID{Family: f}}
	ordinary := true // the type and the policy are those of nfproxy's base chains
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
		case unix.NFTA_CHAIN_TYPE:
			ordinary = ordinary && nlmsg.CString(b) == "nat"
		case unix.NFTA_CHAIN_POLICY:
			ordinary = ordinary && nlmsg.Number(b) == 1 // NF_ACCEPT
		case chainFlags:
			c.Anonymous = nlmsg.Number(b)&chainBinding != 0
		}
	}
	if c.Hook != nft.NoHook && !ordinary {
		c.Hook = nft.OtherHook
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
