package kernel

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/nft"

	"nfproxy/sandbox"

	"nfproxy/conntrack"
)

// flowEntries adds conntrack entries without packets.
type flowEntries struct {
	t      testing.TB
	handle *netlink.Handle
}

func newFlowEntries(t testing.TB, ns *sandbox.Namespace) flowEntries {
	t.Helper()
	var handle *netlink.Handle
	err := ns.Do(func() (err error) {
		handle, err = netlink.NewHandle(unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handle.Close)
	return flowEntries{t, handle}
}

// add adds the entry of a translated flow with a timeout of ten minutes.
func (e flowEntries) add(p nft.Protocol, source, destination, endpoint netip.AddrPort) {
	e.t.Helper()
	tuple := func(from, to netip.AddrPort) netlink.IPTuple {
		return netlink.IPTuple{Protocol: uint8(p), SrcIP: net.IP(from.Addr().AsSlice()), SrcPort: from.Port(),
			DstIP: net.IP(to.Addr().AsSlice()), DstPort: to.Port()}
	}
	family := netlink.InetFamily(unix.AF_INET)
	if destination.Addr().Is6() {
		family = unix.AF_INET6
	}
	err := e.handle.ConntrackCreate(netlink.ConntrackTable, family, &netlink.ConntrackFlow{FamilyType: uint8(family),
		Forward: tuple(source, destination), Reverse: tuple(endpoint, source), TimeOut: 600})
	if err != nil {
		e.t.Fatal(err)
	}
}

// TestListFilters: a filter lists exactly the flows that match it, in both families and for both protocols.
func TestListFilters(t *testing.T) {
	l := newTestNode(t)
	flows, entries := openConntrack(t, l.node), newFlowEntries(t, l.node)
	frontends := map[nft.Family][]string{nft.IPv4: {"10.96.0.1:53", "10.96.0.1:54", "10.96.0.2:53"},
		nft.IPv6: {"[fd00:10:96::1]:53", "[fd00:10:96::1]:54", "[fd00:10:96::2]:53"}}
	clients := map[nft.Family]netip.Addr{nft.IPv4: netip.MustParseAddr("10.244.9.9"), nft.IPv6: netip.MustParseAddr("fd00:10:244:9::9")}
	protocols := []nft.Protocol{nft.UDP, nft.SCTP, nft.TCP}
	for family, all := range frontends {
		endpoint := netip.AddrPortFrom(clients[family].Next(), 5353)
		for i, to := range all {
			for _, p := range protocols {
				entries.add(p, netip.AddrPortFrom(clients[family], uint16(40_000+i)), netip.MustParseAddrPort(to), endpoint)
			}
		}
	}
	list := func(f conntrack.Filter) (to []string) {
		t.Helper()
		err := flows.List(f, func(fl conntrack.Flow) {
			if fl.Family != f.Family || fl.Protocol != f.Protocol || fl.Original.Source.Addr() != clients[f.Family] ||
				fl.Reply.Source.Addr() != clients[f.Family].Next() || fl.Reply.Destination != fl.Original.Source || fl.ID == 0 {
				t.Errorf("filter %s lists %+v", f, fl)
			}
			to = append(to, fl.Original.Destination.String())
		})
		if err != nil {
			t.Error(err)
		}
		return to
	}
	for family, all := range frontends {
		for _, p := range protocols {
			filter := conntrack.Filter{Family: family, Protocol: p}
			if got := list(filter); len(got) != len(all) {
				t.Errorf("filter %s lists flows to %v, want %v", filter, got, all)
			}
			for _, to := range all {
				filter.Destination = netip.MustParseAddrPort(to)
				if got := list(filter); !slices.Equal(got, []string{to}) {
					t.Errorf("filter %s lists flows to %v, want %s", filter, got, to)
				}
			}
		}
	}
}

// TestListEndpointFilters: a filter by the endpoint, by its port, or by both lists exactly the flows with that source of replies, whatever
// their destination. The destinations of the test's entries are not translated by the kernel.
func TestListEndpointFilters(t *testing.T) {
	l := newTestNode(t)
	flows, entries := openConntrack(t, l.node), newFlowEntries(t, l.node)
	for family, addrs := range flowAddrs {
		client, frontend := netip.MustParseAddr(addrs.client), netip.MustParseAddrPort(addrs.frontend)
		all := []string{at(addrs.a, 8080), at(addrs.a, 8081), at(addrs.b, 8080), at(addrs.c, 8081)}
		protocols := []nft.Protocol{nft.TCP, nft.UDP, nft.SCTP}
		for i, endpoint := range all {
			for _, p := range protocols {
				entries.add(p, netip.AddrPortFrom(client, uint16(40_000+i)), frontend, netip.MustParseAddrPort(endpoint))
			}
		}
		for _, p := range protocols {
			filter := conntrack.Filter{Family: family, Protocol: p}
			ofPort, of, both, translated, other := filter, filter, filter, filter, filter
			ofPort.EndpointPort, of.Endpoint, translated.DestinationNAT = 8080, netip.MustParseAddrPort(all[1]), true
			both.Endpoint, both.EndpointPort, both.Destination = netip.MustParseAddrPort(all[0]), 8080, frontend
			other.Endpoint, other.Destination = both.Endpoint, netip.AddrPortFrom(frontend.Addr(), 1)
			for _, c := range []struct {
				filter conntrack.Filter
				want   []string
			}{
				{filter, all},
				{ofPort, []string{all[0], all[2]}},
				{of, []string{all[1]}},
				{both, []string{all[0]}},
				{translated, nil},
				{other, nil},
			} {
				var got []string
				if err := flows.List(c.filter, func(f conntrack.Flow) { got = append(got, f.Reply.Source.String()) }); err != nil {
					t.Error(err)
				}
				slices.Sort(got)
				if !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
					t.Errorf("filter %s lists flows to %v, want %v", c.filter, got, c.want)
				}
			}
		}
	}
}
