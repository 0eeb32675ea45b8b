package preflight

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// forwarding says whether the node routes for its pods.
func (n Node) forwarding() []Line {
	lines := []Line{n.forwards("net.ipv4.ip_forward")}
	if !n.hasIPv6() {
		return append(lines, ok("ipv6", "the kernel has no IPv6 here: IPv4 alone is served"))
	}
	return append(lines, ok("ipv6", "the kernel has IPv6"), n.forwards("net.ipv6.conf.all.forwarding"))
}

func (n Node) forwards(sysctl string) Line {
	on, err := n.number("proc/sys/" + strings.ReplaceAll(sysctl, ".", "/"))
	switch {
	case err != nil:
		return warning("forwarding", "%s cannot be read: %v", sysctl, err)
	case on == 0:
		return warning("forwarding", "%s is 0: no packet is routed to or from a pod", sysctl).
			advise("set it to 1, if the network plugin does not")
	}
	return ok("forwarding", "%s is %d", sysctl, on)
}

// rpFilter says on which interfaces the source of a packet must be where its answer would go to. The kernel goes by the
// greater of an interface's number and that of all (ip-sysctl: 1 is strict, 2 is loose).
func (n Node) rpFilter() []Line {
	const conf = "proc/sys/net/ipv4/conf"
	all, err := n.number(conf + "/all/rp_filter")
	if err != nil {
		return []Line{warning("rp_filter", "it cannot be read: %v", err)}
	}
	interfaces, err := os.ReadDir(n.path(conf))
	if err != nil {
		return []Line{warning("rp_filter", "the interfaces cannot be listed: %v", err)}
	}
	var strict []string
	for _, i := range interfaces {
		own, err := n.number(filepath.Join(conf, i.Name(), "rp_filter"))
		if err == nil && max(own, all) == 1 && !slices.Contains([]string{"all", "default", "lo"}, i.Name()) {
			strict = append(strict, i.Name())
		}
	}
	if len(strict) > 0 {
		return []Line{warning("rp_filter", "strict on %s: packets are dropped that come by another way than their answers go", some(strict)).
			advise("nothing, if this node has one way to each of its clients and pods; else set net.ipv4.conf.all.rp_filter to 2")}
	}
	return []Line{ok("rp_filter", "strict on no interface")}
}

// maxNames is how many names a line has.
const maxNames = 5

// some lists names, not too many.
func some(names []string) string {
	if len(names) > maxNames {
		return strings.Join(names[:maxNames], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}

// bridged says whether answers between two pods on one bridge come by the connection tracking: they need not leave the
// bridge, and nobody would put the Service's address back into them.
func (n Node) bridged() []Line {
	names, err := n.Bridges()
	if err != nil {
		return []Line{warning("bridge", "the network interfaces cannot be listed: %v", err)}
	}
	if len(names) == 0 {
		return []Line{ok("bridge", "there is no bridge")}
	}
	on, err := n.number("proc/sys/net/bridge/bridge-nf-call-iptables")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []Line{warning("bridge", "net.bridge.bridge-nf-call-iptables cannot be read: %v", err)}
	}
	if on == 0 {
		return []Line{warning("bridge", "packets between ports of the bridge %s are not tracked: a pod there does not reach another through a Service",
			some(names)).advise("nothing, if pods are on no bridge; else modprobe br_netfilter, and set net.bridge.bridge-nf-call-iptables to 1")}
	}
	return []Line{ok("bridge", "packets between ports of the bridge %s are tracked", some(names))}
}

// bridges lists the bridges among the network interfaces.
func bridges() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		if l.Type() == "bridge" {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}
