package differential

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// flow is a UDP socket that stays open while the cluster changes, and its conntrack entry.
type flow struct {
	*probe
	question question
	before   string // what answered the first datagram, or the outcome
	local    netip.AddrPort
}

// flowKey is what flows of both proxies have in common.
type flowKey struct {
	question question
	before   string
}

func (k flowKey) String() string {
	return fmt.Sprintf("flow to %s, at %s before", k.question, k.before)
}

// flowPlaces are the places from which flows are opened.
var flowPlaces = []string{"pod", "node", "outside"}

// flowsOfEach is the number of flows that a place opens to a target.
const flowsOfEach = 5

// openFlows opens flows to the UDP targets of some Services.
func openFlows(n *node, targets []*target) ([]*flow, error) {
	var all []*flow
	for _, name := range flowPlaces {
		p := n.place(name)
		var flows []*flow
		for _, t := range targets {
			if t.protocol != corev1.ProtocolUDP || len(t.services) == 0 {
				continue
			}
			for i := range flowsOfEach {
				source := p.sources[index(t.to.Addr())].client(3000 + i)
				flows = append(flows, &flow{probe: &probe{protocol: t.protocol, source: source, target: t.to}, question: question{t, name}})
			}
		}
		if err := p.ns.Do(func() error {
			for _, f := range flows {
				if err := f.open(); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
		all = append(all, flows...)
	}
	if err := exchange(all, probeTimeout); err != nil {
		return nil, err
	}
	for _, f := range all {
		f.before = endpointOf(f.result)
		local, err := unix.Getsockname(f.fd)
		if err != nil {
			return nil, err
		}
		f.local = addrPort(local)
	}
	return all, nil
}

// exchange sends a datagram by each flow and waits for the answers.
func exchange(flows []*flow, timeout time.Duration) error {
	var probes []*probe
	for _, f := range flows {
		f.result = ""
		unix.GetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_ERROR) // clears an error of the last exchange
		f.start()
		probes = append(probes, f.probe)
	}
	return await(probes, timeout)
}

func closeFlows(flows []*flow) {
	for _, f := range flows {
		f.close()
	}
}

// entries returns the flows that have a conntrack entry.
func entries(n *node, flows []*flow) (map[*flow]bool, error) {
	type tuple struct{ from, to netip.AddrPort }
	found := make(map[tuple]bool)
	err := inNamespace(n.network.Node(), func(h *netlink.Handle) error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			all, err := h.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, e := range all {
				from, _ := netip.AddrFromSlice(e.Forward.SrcIP)
				to, _ := netip.AddrFromSlice(e.Forward.DstIP)
				if e.Forward.Protocol == unix.IPPROTO_UDP {
					found[tuple{netip.AddrPortFrom(from.Unmap(), e.Forward.SrcPort), netip.AddrPortFrom(to.Unmap(), e.Forward.DstPort)}] = true
				}
			}
		}
		return nil
	})
	with := make(map[*flow]bool)
	for _, f := range flows {
		with[f] = found[tuple{f.local, f.target}]
	}
	return with, err
}

// describe returns what became of the flows: whether their entries are still there, and who answers the next datagram.
func describe(flows []*flow, with map[*flow]bool) map[flowKey]outcomes {
	all := make(map[flowKey]outcomes)
	for _, f := range flows {
		entry, then := "entry is gone", endpointOf(f.result)
		if with[f] {
			entry = "entry stays"
		}
		switch {
		case then == f.before:
			then = "same as before"
		case !isOutcome(then):
			then = "another endpoint"
		}
		if !with[f] && !isOutcome(endpointOf(f.result)) {
			then = "an endpoint" // a random one
		}
		key := flowKey{f.question, f.before}
		if all[key] == nil {
			all[key] = make(outcomes)
		}
		all[key][entry+"; next datagram: "+then] = true
	}
	return all
}

// endpointOf returns the server's address in an answer, or the outcome.
func endpointOf(result string) string {
	at, _, _ := strings.Cut(result, " ")
	return at
}

func isOutcome(text string) bool { return text == refused || text == dropped || text == forbidden }

// flush deletes all conntrack entries of a node.
func flush(n *node) error {
	return inNamespace(n.network.Node(), func(h *netlink.Handle) error { return h.ConntrackTableFlush(netlink.ConntrackTable) })
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
