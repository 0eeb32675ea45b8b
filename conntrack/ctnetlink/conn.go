package ctnetlink

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/conntrack"
	"nfproxy/nlmsg"
)

// Flows talks to the connection tracking of one network namespace. Of its methods two goroutines must not be in one at
// once; Delete may be called from within List.
type Conn struct {
	lists *nlmsg.Socket
	edits *nlmsg.Socket // a second one: the answers of a list under way wait in the first
	// unfiltered: the kernel has refused a filter, and is not asked again.
	unfiltered bool
}

// OpenFlows opens a connection to the calling thread's network namespace. Without the privilege to change it, OpenFlows
// fails with an error that wraps os.ErrPermission; without connection tracking over netlink in the kernel
// (CONFIG_NF_CT_NETLINK) it fails as well.
func Open() (*Conn, error) {
	var f Conn
	var err error
	if f.lists, err = nlmsg.Dial(); err != nil {
		return nil, err
	}
	if f.edits, err = nlmsg.Dial(); err != nil {
		f.lists.Close()
		return nil, err
	}
	if _, err := f.Count(); err != nil {
		f.Close()
		return nil, err
	}
	return &f, nil
}

// Close closes the connection. What was deleted stays so.
func (f *Conn) Close() error { return errors.Join(f.lists.Close(), f.edits.Close()) }

// Count is how many entries of any kind the namespace has.
func (f *Conn) Count() (uint32, error) {
	var n uint32
	err := f.edits.Exchange(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, ctGetStats), unix.NLM_F_ACK, unix.AF_UNSPEC, nil, func(body []byte) error {
		for kind, b := range nlmsg.Attributes(body) {
			if kind == ctaStatsEntries {
				n = uint32(nlmsg.Number(b))
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count flows: %w", err)
	}
	return n, nil
}

// listAttempts is how often a list that was interrupted is begun again.
const listAttempts = 5

// List calls each for every flow that the filter matches, while the list goes on. When the kernel says that the list
// is not complete it is begun again, a few times: each can get a flow twice. A flow that begins meanwhile may be missing.
//
// The kernel filters first, from Linux 5.8 on (filter); then List does.
func (f *Conn) List(filter conntrack.Filter, each func(conntrack.Flow)) error {
	var err error
	for range listAttempts {
		err = f.list(filter, each)
		if !f.unfiltered && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
			f.unfiltered = true
			err = f.list(filter, each)
		}
		if !incomplete(err) {
			break
		}
		if err := f.lists.Drain(); err != nil && !incomplete(err) {
			return fmt.Errorf("list flows: %s: %w", filter, err)
		}
	}
	if err != nil {
		return fmt.Errorf("list flows: %s: %w", filter, err)
	}
	return nil
}

// incomplete says whether a list ended early but another may not. EBUSY is an earlier list that has not ended
// (__netlink_dump_start in net/netlink/af_netlink.c).
func incomplete(err error) bool {
	return errors.Is(err, nlmsg.ErrInterrupted) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.EBUSY)
}

func (f *Conn) list(filter conntrack.Filter, each func(conntrack.Flow)) error {
	fill := func(m *nlmsg.Message) { appendFilter(m, filter) }
	if f.unfiltered {
		fill = nil
	}
	return f.lists.Exchange(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, ctGet), unix.NLM_F_DUMP, filter.Family.Number(), fill, func(body []byte) error {
		if fl, ok := decodeFlow(filter.Family, body); ok && filter.Matches(fl) {
			each(fl)
		}
		return nil
	})
}

// Delete deletes that one entry: not another of the same addresses in another zone, and not a later one. That it is
// gone already is no error.
func (f *Conn) Delete(flow conntrack.Flow) error {
	if err := checkTuple(flow); err != nil {
		return fmt.Errorf("delete flow %s: %w", flow, err)
	}
	err := f.edits.Exchange(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, ctDelete), unix.NLM_F_ACK, flow.Family.Number(), func(m *nlmsg.Message) {
		appendTuple(m, ctaTupleOrig, flow.Protocol, flow.Original)
		if flow.Zone != 0 {
			m.Uint16(ctaZone, flow.Zone)
		}
		m.Uint32(ctaID, flow.ID)
	}, nil)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete flow %s: %w", flow, err)
	}
	return nil
}

// checkTuple refuses what has no complete tuple: the kernel takes a deletion without one as that of all flows there are
// (ctnetlink_del_conntrack in net/netfilter/nf_conntrack_netlink.c).
func checkTuple(f conntrack.Flow) error {
	for _, a := range []bool{f.Original.Source.Addr().Is4(), f.Original.Destination.Addr().Is4()} {
		if a != (f.Family == nft.IPv4) {
			return errors.New("its addresses are not of its family")
		}
	}
	if !f.Original.Source.IsValid() || !f.Original.Destination.IsValid() {
		return errors.New("it has no addresses")
	}
	if !f.Protocol.HasPorts() {
		return errors.New("its protocol has no ports")
	}
	return nil
}
