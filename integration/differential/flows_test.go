package differential

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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

// compareFlows compares what an edit does to flows that were open before.
func (a *arena) compareFlows(kubeProxy, nfproxy []*flow, count *tally) ([]difference, error) {
	type result struct {
		with map[*flow]bool
		of   map[flowKey]outcomes
	}
	flows := map[*contestant][]*flow{&a.kubeProxy: kubeProxy, &a.nfproxy: nfproxy}
	list := func(c *contestant) (result, error) {
		with, err := entries(c.node, flows[c])
		return result{with, describe(flows[c], with)}, err
	}
	var k, n result
	var err error
	for deadline := time.Now().Add(4 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if k, n, err = both(a, list); err != nil {
			return nil, err
		}
		if len(a.unexpected(flowDifferences(k.of, n.of))) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if _, _, err := both(a, func(c *contestant) (any, error) { return nil, exchange(flows[c], probeTimeout) }); err != nil {
		return nil, err
	}
	k.of, n.of = describe(kubeProxy, k.with), describe(nfproxy, n.with)
	count.flows += len(k.of)
	return a.unexpected(append(flowDifferences(k.of, n.of), a.endedByWeight(n.of)...)), nil
}

// endedByWeight returns the flows that nfproxy has ended although nothing happened to their endpoint but that it has weight 0. kube-proxy
// ends them, too: it is not shown such endpoints.
func (a *arena) endedByWeight(nfproxy map[flowKey]outcomes) []difference {
	var found []difference
	for key, of := range nfproxy {
		if a.onlyWeightZero(key) && strings.Contains(of.String(), "entry is gone") {
			found = append(found, difference{kind: flowed, what: key.String(), question: &key.question, before: key.before,
				kubeProxy: "entry stays, as the document says: the endpoint has weight 0", nfproxy: of.String()})
		}
	}
	return found
}

// onlyWeightZero reports whether the endpoint of a flow is ready and has weight 0, in a Service that the edit has not changed otherwise.
func (a *arena) onlyWeightZero(key flowKey) bool {
	t := key.question.target
	at := a.now.endpointsOf(t)
	at = slices.DeleteFunc(at, func(e endpointAt) bool { return e.at != key.before })
	unchanged := func(name string) bool {
		old, now := a.last.named(name), a.now.named(name)
		return old != nil && now != nil && equality.Semantic.DeepEqual(old, now) && !slices.Contains(a.recreated, name)
	}
	return len(at) > 0 && len(t.services) == 1 && unchanged(t.services[0]) && equality.Semantic.DeepEqual(a.last.node, a.now.node) &&
		!slices.ContainsFunc(at, func(e endpointAt) bool {
			ready, serving := e.Conditions.Ready, e.Conditions.Serving
			return e.weight > 0 || ready != nil && !*ready || serving != nil && !*serving
		})
}

// flowDifferences compares the flows that were at the same endpoint before.
func flowDifferences(k, n map[flowKey]outcomes) []difference {
	var found []difference
	for key, of := range k {
		if other, ok := n[key]; ok && !maps.Equal(of, other) {
			found = append(found, difference{kind: flowed, what: key.String(), question: &key.question, before: key.before, kubeProxy: of.String(), nfproxy: other.String()})
		}
	}
	return found
}
