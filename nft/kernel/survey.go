package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"nfproxy/nlmsg"
)

// SurveyedTable is a table of anybody's, with its chains and nothing of what is in them.
type SurveyedTable struct {
	// Family is nft's name of it: ip, ip6 or inet.
	Family string
	Name   string
	Chains []SurveyedChain
}

// SurveyedChain is a chain of a SurveyedTable. What follows its name only a base chain has.
type SurveyedChain struct {
	Name string
	// Type is nat, filter or route; Hook nft's name of it, such as prerouting.
	Type, Hook string
	Priority   int32
	// Drops says that the policy is to drop.
	Drops bool
}

// String returns "ip name".
func (t SurveyedTable) String() string { return t.Family + " " + t.Name }

// Survey lists the tables of the namespace whose chains see IP packets on their way through it, whoever made them. It
// changes nothing. If somebody commits all the time it can miss what came meanwhile.
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

// decodeSurveyed reads a NEWCHAIN message of the families above.
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

// hookName is nft's name of a hook of enum nf_inet_hooks (include/uapi/linux/netfilter.h).
func hookName(number uint64) string {
	names := [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	if number < uint64(len(names)) {
		return names[number]
	}
	return fmt.Sprintf("hook %d", number)
}
