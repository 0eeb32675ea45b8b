package ctnetlink

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"nfproxy/conntrack"
	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// Conn is a connection to the connection tracking of one network namespace. It must not be used by two goroutines at once.
// Delete may be called from within List.
type Conn struct {
	lists      *nlmsg.Socket
	edits      *nlmsg.Socket // a second socket: the first one holds the answers while a list is read
	unfiltered bool          // the kernel has refused a filter and gets none any more
}

// Open opens a connection to the calling thread's network namespace. Without the privilege to change connection tracking
// there, the error wraps os.ErrPermission. Open also fails if the kernel lacks CONFIG_NF_CT_NETLINK.
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

// Close closes the connection.
func (f *Conn) Close() error { return errors.Join(f.lists.Close(), f.edits.Close()) }

// Count returns the number of entries of the network namespace, of all protocols.
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

// listAttempts is how often an incomplete list is begun again.
const listAttempts = 5

// List calls each for every flow that the filter selects, as the kernel lists them. If the list is incomplete, List begins
// it again, up to listAttempts times in all, so that each can get a flow twice. A flow that begins meanwhile may be missing.
//
// From Linux 5.8 on the kernel filters, as far as it can (see appendFilter). List itself filters what remains.
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
	}
	if err != nil {
		return fmt.Errorf("list flows: %s: %w", filter, err)
	}
	return nil
}

// incomplete reports whether a list ended early for a reason that may not affect the next attempt.
func incomplete(err error) bool {
	return errors.Is(err, nlmsg.ErrInterrupted) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.ENOMEM)
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

// Delete deletes exactly this entry, neither one with the same addresses in another zone nor a later one. It is no error if
// the entry does not exist any more.
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

// checkTuple returns an error unless the flow has a complete tuple: without one, the kernel would delete all entries of the
// network namespace (ctnetlink_del_conntrack in net/netfilter/nf_conntrack_netlink.c).
func checkTuple(f conntrack.Flow) error {
	for _, a := range []bool{f.Original.Source.Addr().Is4(), f.Original.Destination.Addr().Is4()} {
		if a != (f.Family == nft.IPv4) {
			return errors.New("the addresses do not belong to the family")
		}
	}
	if !f.Original.Source.IsValid() || !f.Original.Destination.IsValid() {
		return errors.New("the addresses are missing")
	}
	if !f.Protocol.HasPorts() {
		return errors.New("the protocol has no ports")
	}
	return nil
}
