package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NodePorts are the addresses of this machine at which node ports are served: those of any of its fields.
type NodePorts struct {
	// Primary means the addresses of the Node object; Settings.PrimaryIP replaces the one of its family. It is the default.
	Primary bool
	// Localhost means the loopback addresses, 127.0.0.0/8 and ::1. No rule serves node ports there: see render.Node.Loopback.
	Localhost bool
	// All means all addresses.
	All bool
	// CIDRs are the ranges of further addresses.
	CIDRs []netip.Prefix
}

// Ranges returns the ranges of the interface addresses at which node ports are served: all but Primary. It is empty for
// Primary alone. A range of all addresses of a family means all local addresses, not only those of interfaces.
func (n NodePorts) Ranges() []netip.Prefix {
	var ranges []netip.Prefix
	if n.All {
		ranges = append(ranges, allIPv4(), allIPv6())
	}
	if n.Localhost {
		ranges = append(ranges, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	}
	return append(ranges, n.CIDRs...)
}

// allIPv4 and allIPv6 return the ranges of all addresses of a family.
func allIPv4() netip.Prefix { return netip.PrefixFrom(netip.IPv4Unspecified(), 0) }
func allIPv6() netip.Prefix { return netip.PrefixFrom(netip.IPv6Unspecified(), 0) }

// nodePorts returns the addresses at which node ports are served.
func (c *configuration) nodePorts() NodePorts {
	const field = "nodePortAddresses"
	n, err := parseNodePorts(strings.Join(c.NodePortAddresses, ","))
	if err != nil {
		c.fail(field, err)
	}
	if loopback := n.loopback(); len(loopback) > 0 && !c.localhostAllowed() {
		c.warn(field, "node ports are not served at loopback addresses without the feature gate "+localhostNodePorts)
	} else {
		c.loopback = loopback
	}
	return n
}

// loopback returns the loopback address of each family of which a range lies within the loopback addresses. A range that merely
// contains them, such as that of all addresses, does not count, as in kube-proxy (ContainsExplicitLoopback in
// pkg/proxy/util/nodeport_addresses.go of 1.37).
func (n NodePorts) loopback() []netip.Addr {
	var all []netip.Addr
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		explicit := func(p netip.Prefix) bool { return p.Addr().IsLoopback() && p.Addr().Is4() == addr.Is4() }
		if slices.ContainsFunc(n.Ranges(), explicit) {
			all = append(all, addr)
		}
	}
	return all
}

// parseNodePorts parses keywords and CIDRs separated by commas. An empty list means primary.
func parseNodePorts(list string) (NodePorts, error) {
	var n NodePorts
	for text := range strings.SplitSeq(list, ",") {
		switch text = strings.TrimSpace(text); text {
		case "primary":
			n.Primary = true
		case "localhost":
			n.Localhost = true
		case "all":
			n.All = true
		default:
			cidrs, err := parsePrefixes(text)
			if err != nil {
				if !strings.Contains(text, "/") {
					err = fmt.Errorf("%w, nor primary, localhost or all", err)
				}
				return NodePorts{}, err
			}
			n.CIDRs = append(n.CIDRs, cidrs...)
		}
	}
	if len(n.Ranges()) == 0 {
		n.Primary = true
	}
	return n, nil
}

// completeFamilies adds all addresses of a family without ranges, unless the family has a primary address that serves node ports:
// a loopback bindAddress means that it has none. kube-proxy does the same (NewNodePortAddresses in
// pkg/proxy/util/nodeport_addresses.go).
func (c *configuration) completeFamilies(n NodePorts, primaryIP netip.Addr) NodePorts {
	ranges := n.Ranges()
	for _, family := range []struct {
		name string
		all  netip.Prefix
	}{{"IPv4", allIPv4()}, {"IPv6", allIPv6()}} {
		ipv4 := family.all.Addr().Is4()
		ofFamily := func(p netip.Prefix) bool { return p.Addr().Is4() == ipv4 }
		noPrimary := primaryIP.IsLoopback() && primaryIP.Is4() == ipv4
		if slices.ContainsFunc(ranges, ofFamily) || n.Primary && !noPrimary {
			continue
		}
		if n.Primary {
			c.warn("bindAddress", "a loopback address: node ports are served at all "+family.name+" addresses")
		}
		n.CIDRs = append(n.CIDRs, family.all)
	}
	return n
}
