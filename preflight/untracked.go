package preflight

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"

	"nfproxy/nft/kernel"
	"nfproxy/report"
)

// untracked checks for rules that exempt packets from connection tracking, in nftables or of iptables. The kernel
// translates no packet without a connection (nf_nat_inet_fn in net/netfilter/nf_nat_core.c), so nfproxy's rules do not see it.
// NodeLocal DNSCache has such rules for the addresses at which it answers on every node.
func (n Node) untracked(survey []kernel.SurveyedTable, legacy []legacyTable, served report.Description) []Line {
	found, err := findUntracked(survey)
	if err != nil {
		return []Line{warning("untracked", "rules without connection tracking cannot be read: %v", err)}
	}
	for _, t := range legacy {
		found = append(found, t.Untracked...)
	}
	local, err := localAddresses()
	if err != nil {
		return []Line{warning("untracked", "addresses of this node cannot be read: %v", err)}
	}
	var chains, answered, lost, other []string
	for _, u := range found {
		chains = append(chains, u.chain)
		switch {
		case local[u.to]:
			answered = append(answered, u.to.String())
		case u.to.IsValid() && (len(served.Services) == 0 || isFrontend(served, u.to)):
			lost = append(lost, u.to.String())
		default:
			other = append(other, u.chain)
		}
	}
	var lines []Line
	if len(lost) > 0 {
		lines = append(lines, warning("untracked", "packets to %s are not tracked (%s), and this node does not have the address: no rule translates them, and no program of this node answers them",
			joinOnce(lost), joinOnce(chains)).
			advise("if NodeLocal DNSCache ran here, delete what it left: the rules with target NOTRACK or CT in these chains, and the link nodelocaldns; otherwise narrow the rules"))
	}
	if len(answered) > 0 {
		lines = append(lines, ok("untracked", "packets to %s are not tracked (%s) and not translated: a program of this node has to answer them, as NodeLocal DNSCache does",
			joinOnce(answered), joinOnce(chains)))
	}
	if len(other) > 0 {
		lines = append(lines, ok("untracked", "rules in %s exempt further packets from connection tracking: these packets reach no Service",
			joinOnce(other)))
	}
	if len(lines) == 0 {
		lines = append(lines, ok("untracked", "no rule exempts packets from connection tracking"))
	}
	return lines
}

// untrackedPackets are the packets of a rule without connection tracking.
type untrackedPackets struct {
	chain string
	// to is their destination; it is invalid if the rule does not compare the destination, or not with single addresses.
	to netip.Addr
}

// conntrackPriority is the priority at which connection tracking begins: NF_IP_PRI_CONNTRACK. Rules that prevent it come before.
const conntrackPriority = -200

// findUntracked returns the packets of all rules without connection tracking in the tables that have a chain before it. Replies
// to such packets, which only the source tells, are left out.
func findUntracked(survey []kernel.SurveyedTable) ([]untrackedPackets, error) {
	var all []untrackedPackets
	for _, t := range survey {
		if !slices.ContainsFunc(t.Chains, func(c kernel.SurveyedChain) bool { return c.Hook != "" && c.Priority < conntrackPriority }) {
			continue
		}
		table := &nftables.Table{Name: t.Name, Family: libraryFamily(t.Family)}
		conn, err := nftables.New()
		if err != nil {
			return nil, err
		}
		for _, c := range t.Chains {
			rules, err := conn.GetRules(table, &nftables.Chain{Name: c.Name, Table: table})
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", t, c.Name, err)
			}
			for _, r := range rules {
				if !slices.ContainsFunc(r.Exprs, isNotrack) || comparesSource(r.Exprs) {
					continue
				}
				for _, to := range destinations(conn, table, r.Exprs) {
					all = append(all, untrackedPackets{fmt.Sprintf("%s %s", t, c.Name), to})
				}
			}
		}
	}
	return all, nil
}

// libraryFamily returns the library's constant for a family of a SurveyedTable.
func libraryFamily(name string) nftables.TableFamily {
	return map[string]nftables.TableFamily{"ip": nftables.TableFamilyIPv4, "ip6": nftables.TableFamilyIPv6, "inet": nftables.TableFamilyINet}[name]
}

// isNotrack reports whether an expression exempts packets from connection tracking: nftables' own, or a target of xtables, of
// which CT has other uses too (XT_CT_NOTRACK in include/uapi/linux/netfilter/xt_CT.h).
func isNotrack(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Notrack:
		return true
	case *expr.Target:
		info, _ := e.Info.(*xt.Unknown)
		return e.Name == "NOTRACK" || e.Name == "CT" && info != nil && len(*info) > 1 && binary.NativeEndian.Uint16(*info)&1 != 0
	}
	return false
}

// Offsets of addresses in the headers of IPv4 and IPv6.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

// comparesSource reports whether a rule compares the source address alone.
func comparesSource(exprs []expr.Any) bool {
	return loads(exprs, source4, source6) >= 0 && loads(exprs, destination4, destination6) < 0
}

// loads returns the index of the expression that loads a whole address from one of the offsets, -1 if there is none.
func loads(exprs []expr.Any, offset4, offset6 uint32) int {
	return slices.IndexFunc(exprs, func(e expr.Any) bool {
		p, isPayload := e.(*expr.Payload)
		return isPayload && p.Base == expr.PayloadBaseNetworkHeader && (p.Offset == offset4 && p.Len == 4 || p.Offset == offset6 && p.Len == 16)
	})
}

// destinations returns the destination addresses that a rule compares, one that is not valid if they are not single addresses.
func destinations(conn *nftables.Conn, table *nftables.Table, exprs []expr.Any) []netip.Addr {
	i := loads(exprs, destination4, destination6)
	if i < 0 {
		return []netip.Addr{{}}
	}
	length := int(exprs[i].(*expr.Payload).Len)
	for _, e := range exprs[i+1:] {
		switch e := e.(type) {
		case *expr.Payload, *expr.Meta: // a further field of the same key, or of the next match
			continue
		case *expr.Cmp:
			if a, isAddr := netip.AddrFromSlice(e.Data); isAddr && e.Op == expr.CmpOpEq {
				return []netip.Addr{a}
			}
		case *expr.Lookup:
			if all := addressesIn(conn, table, e, length); len(all) > 0 && !e.Invert {
				return all
			}
		}
		break
	}
	return []netip.Addr{{}}
}

// addressesIn returns the addresses of a given length with which the keys of a set begin, none if the set has intervals.
func addressesIn(conn *nftables.Conn, table *nftables.Table, l *expr.Lookup, length int) []netip.Addr {
	elements, err := conn.GetSetElements(&nftables.Set{Table: table, Name: l.SetName, ID: l.SetID})
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for _, e := range elements {
		if e.IntervalEnd || len(e.KeyEnd) > 0 || len(e.Key) < length {
			return nil
		}
		if a, isAddr := netip.AddrFromSlice(e.Key[:length]); isAddr {
			all = append(all, a)
		}
	}
	return all
}

// localAddresses returns the addresses of the calling thread's network namespace.
func localAddresses() (map[netip.Addr]bool, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	all := make(map[netip.Addr]bool)
	for _, a := range list {
		if addr, isAddr := netip.AddrFromSlice(a.IP); isAddr {
			all[addr.Unmap()] = true
		}
	}
	return all, nil
}

// isFrontend reports whether a Service has the address.
func isFrontend(d report.Description, a netip.Addr) bool {
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			if f.Address == a {
				return true
			}
		}
	}
	return false
}

// joinOnce joins the names in order, each once.
func joinOnce(names []string) string {
	slices.SortFunc(names, strings.Compare)
	return joinNames(slices.Compact(names))
}
