package preflight

import (
	"errors"
	"os"

	"nfproxy/conntrack/ctnetlink"
)

// conntrackNetlink says whether flows can be listed and deleted.
func (n Node) conntrackNetlink() []Line {
	switch err := n.Flows(); {
	case errors.Is(err, os.ErrPermission):
		return nil // the line about privileges says so
	case err != nil:
		return []Line{problem("conntrack-netlink", "the connection tracking cannot be asked: %v", err).
			advise("it needs CONFIG_NF_CT_NETLINK; if the kernel has it as a module: modprobe nf_conntrack_netlink")}
	}
	return []Line{ok("conntrack-netlink", "stale flows can be found and deleted")}
}

// flows asks the connection tracking for a number.
func flows() error {
	f, err := ctnetlink.Open()
	if err != nil {
		return err
	}
	return f.Close()
}

// conntrack says how full the connection tracking is: when it is, new connections are dropped.
func (n Node) conntrack() []Line {
	limit, err := n.number("proc/sys/net/netfilter/nf_conntrack_max")
	if errors.Is(err, os.ErrNotExist) {
		return []Line{ok("conntrack", "not loaded yet: the first rule does that")}
	}
	if err != nil {
		return []Line{warning("conntrack", "its limit cannot be read: %v", err)}
	}
	count, err := n.number("proc/sys/net/netfilter/nf_conntrack_count")
	switch {
	case err != nil:
		return []Line{warning("conntrack", "how many connections there are cannot be read: %v", err)}
	case limit == 0:
		return []Line{ok("conntrack", "%d connections, without a limit", count)}
	case count >= limit/10*8:
		return []Line{warning("conntrack", "%d connections of at most %d: further ones will be dropped", count, limit).
			advise("raise net.netfilter.nf_conntrack_max, or the setting conntrack.maxPerCore that sets it")}
	}
	return []Line{ok("conntrack", "%d connections of at most %d", count, limit)}
}
