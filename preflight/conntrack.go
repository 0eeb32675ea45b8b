package preflight

import (
	"errors"
	"os"

	"github.com/prometheus/procfs"

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

const conntrackMax = "proc/sys/net/netfilter/nf_conntrack_max"

// conntrack checks the table of connections.
func (n Node) conntrack() []Line {
	if _, err := n.read(conntrackMax); missing(err) {
		return []Line{ok("conntrack", "nf_conntrack is not loaded yet; the first nat rule loads it")}
	}
	return []Line{n.conntrackEntries(), n.conntrackDrops()}
}

// conntrackEntries compares the number of conntrack entries with the limit. The kernel drops new connections at the limit.
func (n Node) conntrackEntries() Line {
	const advice = "raise net.netfilter.nf_conntrack_max, or the setting conntrack.maxPerCore, which sets it"
	limit, err := n.readInt(conntrackMax)
	if err != nil {
		return warning("conntrack", "nf_conntrack_max cannot be read: %v", err)
	}
	count, err := n.readInt("proc/sys/net/netfilter/nf_conntrack_count")
	switch {
	case err != nil:
		return warning("conntrack", "nf_conntrack_count cannot be read: %v", err)
	case limit == 0:
		return ok("conntrack", "%d entries, no limit", count)
	case count >= limit:
		return problem("conntrack", "%d of %d entries in use: the table is full, and the kernel drops new connections", count, limit).advise(advice)
	case count*10 >= limit*8:
		return warning("conntrack", "%d of %d entries in use: new connections are dropped when the table is full", count, limit).advise(advice)
	}
	return ok("conntrack", "%d of %d entries in use", count, limit)
}

// conntrackDrops reports what the counters of the network namespace tell about lost packets. Conntrack drops a packet if the table
// is full and no entry can be evicted, or if two packets of one new connection are handled at once and the entry of the second
// cannot be merged with that of the first (nf_conntrack_in, early_drop and nf_ct_resolve_clash in
// net/netfilter/nf_conntrack_core.c).
func (n Node) conntrackDrops() Line {
	var perCPU []procfs.ConntrackStatEntry
	fs, err := procfs.NewFS(n.path(threadProc))
	if err == nil {
		perCPU, err = fs.ConntrackStat()
	}
	if err != nil {
		return warning("conntrack-drops", "counters of conntrack cannot be read: %v", err)
	}
	var dropped, clashed, evicted uint64
	for _, c := range perCPU {
		dropped, clashed, evicted = dropped+c.Drop, clashed+c.InsertFailed, evicted+c.EarlyDrop
	}
	if dropped+clashed+evicted == 0 {
		return ok("conntrack-drops", "no packet was dropped, and no entry was evicted")
	}
	return warning("conntrack-drops", "%d packets dropped, %d clashes of entries, %d entries evicted because the table was full, since the network namespace exists",
		dropped, clashed, evicted).advise("if the numbers grow (conntrack -S shows them): raise net.netfilter.nf_conntrack_max, unless all drops are clashes. " +
		"These are normal for clients that send two packets of one UDP connection at once, as resolvers do; they try again")
}
