package preflight

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// forwarding checks that the node routes packets, which Pods need.
func (n Node) forwarding() []Line {
	lines := []Line{n.forwardingSysctl("net.ipv4.ip_forward")}
	if !n.hasIPv6() {
		return append(lines, ok("ipv6", "no IPv6 in this network namespace: only IPv4 is served"))
	}
	return append(lines, ok("ipv6", "IPv6 is available"), n.forwardingSysctl("net.ipv6.conf.all.forwarding"))
}

// forwardingSysctl checks that a sysctl which enables routing is set.
func (n Node) forwardingSysctl(sysctl string) Line {
	on, err := n.readInt("proc/sys/" + strings.ReplaceAll(sysctl, ".", "/"))
	switch {
	case err != nil:
		return warning("forwarding", "%s cannot be read: %v", sysctl, err)
	case on == 0:
		return warning("forwarding", "%s is 0: packets to and from Pods are not routed", sysctl).
			advise("set it to 1, unless the network plugin does")
	}
	return ok("forwarding", "%s is %d", sysctl, on)
}

// rpFilter checks for interfaces with strict reverse path filtering. The kernel uses the maximum of the values for the
// interface and for "all"; 1 is strict, 2 is loose (Documentation/networking/ip-sysctl.rst).
func (n Node) rpFilter() []Line {
	const conf = "proc/sys/net/ipv4/conf"
	all, err := n.readInt(conf + "/all/rp_filter")
	if err != nil {
		return []Line{warning("rp_filter", "rp_filter cannot be read: %v", err)}
	}
	interfaces, err := os.ReadDir(n.path(conf))
	if err != nil {
		return []Line{warning("rp_filter", "interfaces with rp_filter cannot be listed: %v", err)}
	}
	var strict []string
	for _, i := range interfaces {
		value, err := n.readInt(filepath.Join(conf, i.Name(), "rp_filter"))
		if err == nil && max(value, all) == 1 && !slices.Contains([]string{"all", "default", "lo"}, i.Name()) {
			strict = append(strict, i.Name())
		}
	}
	if len(strict) > 0 {
		return []Line{warning("rp_filter", "strict on %s: packets are dropped unless the route back to their source uses the same interface", joinNames(strict)).
			advise("nothing, if the node has a single route to each client and Pod; otherwise set net.ipv4.conf.all.rp_filter to 2")}
	}
	return []Line{ok("rp_filter", "not strict on any interface")}
}

// maxNames is the number of names that joinNames shows.
const maxNames = 5

// joinNames joins the names with commas and leaves out those after the first maxNames.
func joinNames(names []string) string {
	if len(names) > maxNames {
		return strings.Join(names[:maxNames], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}

// bridgeTracking checks that bridged packets pass through conntrack. The reply of one Pod to another on the same bridge does
// not leave the bridge; without conntrack its source is not translated back to the Service's address.
func (n Node) bridgeTracking() []Line {
	names, err := n.Bridges()
	if err != nil {
		return []Line{warning("bridge", "network interfaces cannot be listed: %v", err)}
	}
	if len(names) == 0 {
		return []Line{ok("bridge", "no bridge")}
	}
	on, err := n.readInt("proc/sys/net/bridge/bridge-nf-call-iptables")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []Line{warning("bridge", "net.bridge.bridge-nf-call-iptables cannot be read: %v", err)}
	}
	if on == 0 {
		return []Line{warning("bridge", "packets bridged by %s bypass conntrack: a Pod cannot reach another Pod on the same bridge through a Service",
			joinNames(names)).advise("nothing, if no Pod is attached to a bridge; otherwise modprobe br_netfilter, and set net.bridge.bridge-nf-call-iptables to 1")}
	}
	return []Line{ok("bridge", "packets bridged by %s pass through conntrack", joinNames(names))}
}

// links returns the names of the network interfaces.
func links() ([]string, error) { return linksOf(func(netlink.Link) bool { return true }) }

// bridges returns the names of the bridge interfaces.
func bridges() ([]string, error) {
	return linksOf(func(l netlink.Link) bool { return l.Type() == "bridge" })
}

// linksOf returns the names of the network interfaces that a function selects.
func linksOf(selects func(netlink.Link) bool) ([]string, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range all {
		if selects(l) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}
