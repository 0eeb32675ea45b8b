package preflight

import (
	"errors"
	"os"

	"nfproxy/conntrack/ctnetlink"
)

// conntrackNetlink checks that conntrack entries can be listed and deleted.
func (n Node) conntrackNetlink() []Line {
	switch err := n.OpenConntrack(); {
	case errors.Is(err, os.ErrPermission):
		return nil // the privileges line already reports this
	case err != nil:
		return []Line{problem("conntrack-netlink", "conntrack is not available over netlink: %v", err).
			advise("enable CONFIG_NF_CT_NETLINK; if it is built as a module: modprobe nf_conntrack_netlink")}
	}
	return []Line{ok("conntrack-netlink", "stale conntrack entries can be found and deleted")}
}

// openConntrack opens a conntrack connection, which sends one request, and closes it again.
func openConntrack() error {
	c, err := ctnetlink.Open()
	if err != nil {
		return err
	}
	return c.Close()
}

// conntrack compares the number of conntrack entries with the limit. The kernel drops new connections at the limit.
func (n Node) conntrack() []Line {
	limit, err := n.readInt("proc/sys/net/netfilter/nf_conntrack_max")
	if errors.Is(err, os.ErrNotExist) {
		return []Line{ok("conntrack", "nf_conntrack is not loaded yet; the first nat rule loads it")}
	}
	if err != nil {
		return []Line{warning("conntrack", "nf_conntrack_max cannot be read: %v", err)}
	}
	count, err := n.readInt("proc/sys/net/netfilter/nf_conntrack_count")
	switch {
	case err != nil:
		return []Line{warning("conntrack", "nf_conntrack_count cannot be read: %v", err)}
	case limit == 0:
		return []Line{ok("conntrack", "%d entries, no limit", count)}
	case count >= limit/10*8:
		return []Line{warning("conntrack", "%d of %d entries in use: new connections are dropped when the table is full", count, limit).
			advise("raise net.netfilter.nf_conntrack_max, or the setting conntrack.maxPerCore, which sets it")}
	}
	return []Line{ok("conntrack", "%d of %d entries in use", count, limit)}
}
