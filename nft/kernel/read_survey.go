package kernel

// Reading the base chains of all programs.

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nlmsg"
)

// SurveyedTable is a table of any program, with its chains but without their rules.
type SurveyedTable struct {
	// Family is nft's name of the family: ip, ip6 or inet.
	Family string
	Name   string
	Chains []SurveyedChain
}

// SurveyedChain is a chain of a SurveyedTable. The fields after Name are set for base chains only.
type SurveyedChain struct {
	Name string
	// Type is nat, filter or route. Hook is nft's name of the hook, such as prerouting.
	Type, Hook string
	Priority   int32
	// Drops reports that the policy is drop.
	Drops bool
}

// String returns "ip name".
func (t SurveyedTable) String() string { return t.Family + " " + t.Name }

// Survey lists the tables of all programs in the network namespace, in the families whose chains see forwarded IP
// packets. It changes nothing. If other programs commit continually, the result can lack what they added meanwhile.
func (c *Conn) Survey() ([]SurveyedTable, error) {
	var all []SurveyedTable
	for _, f := range []struct {
		number uint8
		name   string
	}{{unix.NFPROTO_IPV4, "ip"}, {unix.NFPROTO_IPV6, "ip6"}, {unix.NFPROTO_INET, "inet"}} {
		for start := time.Now(); ; {
			tables, interrupted, err := c.surveyFamily(f.number, f.name)
			if err != nil {
				return nil, fmt.Errorf("list tables of family %s: %w", f.name, err)
			}
			if !interrupted || time.Since(start) > readAgain {
				all = append(all, tables...)
				break
			}
		}
	}
	return all, nil
}

// surveyFamily lists the tables of one family. It reports whether a program committed meanwhile.
func (c *Conn) surveyFamily(family uint8, name string) (tables []SurveyedTable, interrupted bool, err error) {
	list := func(kind uint16, each func(body []byte)) error {
		changed, err := c.dump(kind, family, nil, each)
		interrupted = interrupted || changed
		return err
	}
	err = list(unix.NFT_MSG_GETTABLE, func(body []byte) {
		for kind, b := range nlmsg.Attributes(body) {
			if kind == unix.NFTA_TABLE_NAME {
				tables = append(tables, SurveyedTable{Family: name, Name: nlmsg.CString(b)})
			}
		}
	})
	if err != nil {
		return nil, false, err
	}
	err = list(unix.NFT_MSG_GETCHAIN, func(body []byte) {
		table, chain := decodeSurveyed(body)
		for i := range tables {
			if tables[i].Name == table {
				tables[i].Chains = append(tables[i].Chains, chain)
			}
		}
	})
	return tables, interrupted, err
}

// decodeSurveyed decodes a NEWCHAIN message of family ip, ip6 or inet.
func decodeSurveyed(body []byte) (table string, c SurveyedChain) {
	for kind, b := range nlmsg.Attributes(body) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			table = nlmsg.CString(b)
		case unix.NFTA_CHAIN_NAME:
			c.Name = nlmsg.CString(b)
		case unix.NFTA_CHAIN_TYPE:
			c.Type = nlmsg.CString(b)
		case unix.NFTA_CHAIN_POLICY:
			c.Drops = nlmsg.Number(b) == 0 // NF_DROP
		case unix.NFTA_CHAIN_HOOK:
			for kind, b := range nlmsg.Attributes(b) {
				switch kind {
				case unix.NFTA_HOOK_HOOKNUM:
					c.Hook = hookName(nlmsg.Number(b))
				case unix.NFTA_HOOK_PRIORITY:
					c.Priority = int32(nlmsg.Number(b))
				}
			}
		}
	}
	return table, c
}

// hookName returns nft's name of a hook of enum nf_inet_hooks (include/uapi/linux/netfilter.h).
func hookName(number uint64) string {
	names := [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	if number < uint64(len(names)) {
		return names[number]
	}
	return fmt.Sprintf("hook %d", number)
}
