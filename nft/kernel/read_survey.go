package kernel

// Reading the base chains of all programs.

import (
	"errors"
	"fmt"

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
		for attempt := 1; ; attempt++ {
			tables, err := c.surveyFamily(f.number, f.name)
			if err == nil || errors.Is(err, nlmsg.ErrInterrupted) && attempt == readAttempts {
				all = append(all, tables...)
				break
			}
			if !errors.Is(err, nlmsg.ErrInterrupted) {
				return nil, fmt.Errorf("list tables of family %s: %w", f.name, err)
			}
		}
	}
	return all, nil
}

func (c *Conn) surveyFamily(family uint8, name string) ([]SurveyedTable, error) {
	var tables []SurveyedTable
	err := c.request(unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP, family, nil, func(body []byte) error {
		for kind, b := range nlmsg.Attributes(body) {
			if kind == unix.NFTA_TABLE_NAME {
				tables = append(tables, SurveyedTable{Family: name, Name: nlmsg.CString(b)})
			}
		}
		return nil
	})
	if err != nil {
		return tables, err
	}
	err = c.request(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, family, nil, func(body []byte) error {
		table, chain := decodeSurveyed(body)
		for i := range tables {
			if tables[i].Name == table {
				tables[i].Chains = append(tables[i].Chains, chain)
			}
		}
		return nil
	})
	return tables, err
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
