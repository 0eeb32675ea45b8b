package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// countedServices is the number of Services among which TestCounts makes changes.
const countedServices = 1000

// counts are the costs of a change that do not depend on the machine. The first four are exact. What the kernel answers depends on
// its version: the last two are upper bounds.
type counts struct {
	elements           int // added and deleted
	sends              int // system calls
	messages, sent     int // netlink messages and bytes to the kernel
	receives, received int // system calls and bytes from the kernel
}

func (c counts) String() string {
	return fmt.Sprintf("%d, %d, %d, %d, %d, %d", c.elements, c.sends, c.messages, c.sent, c.receives, c.received)
}

// TestCounts: each kind of change costs as many element operations, netlink messages, bytes and system calls as in this table. If
// a change of nfproxy makes one of the numbers smaller, or has a reason to make it larger, the table is changed to what the failing
// test prints.
func TestCounts(t *testing.T) {
	l := newTestNode(t)
	l.readByKey(kernel.ManyElements)
	l.facts.ServiceCIDRs = prefixes("10.0.0.0/8")
	restart := func() []nft.Change {
		l.ruleset = render.NewRuleset(l.facts)
		l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(countedServices)})
		return l.reconcile()
	}
	change := func(s render.Service) func() []nft.Change {
		return func() []nft.Change { return l.apply(render.Update{Services: []render.Service{s}}) }
	}
	remove := func(s render.Service) func() []nft.Change {
		return func() []nft.Change { return l.apply(render.Update{Removed: []render.ServiceName{s.ServiceName}}) }
	}
	added, sticky := clusterService(countedServices, 3, 0), clusterService(countedServices+1, 3, 0)
	sticky.Affinity = time.Hour
	for _, c := range []struct {
		name string
		do   func() []nft.Change
		want counts
	}{
		{"first load", restart, counts{5035, 6, 166, 261_168, 16, 400}},
		{"restart", restart, counts{0, 38, 38, 1648, 106, 320_000}},
		{"replaced endpoint", change(clusterService(7, 3, 1)), counts{2, 1, 4, 216, 2, 40}},
		{"added endpoint", change(clusterService(8, 4, 0)), counts{1, 1, 3, 136, 2, 40}},
		{"removed endpoint", change(clusterService(8, 3, 0)), counts{1, 1, 3, 120, 2, 40}},
		{"removed endpoint and another verdict", change(clusterService(9, 2, 0)), counts{3, 3, 28, 2796, 7, 300}},
		{"added endpoint and another verdict", change(clusterService(9, 3, 0)), counts{3, 2, 6, 476, 5, 300}},
		{"added Service", change(added), counts{8, 1, 6, 540, 2, 40}},
		{"removed Service", remove(added), counts{8, 1, 6, 428, 2, 40}},
		{"added Service with session affinity", change(sticky), counts{7, 2, 19, 2920, 4, 80}},
		{"replaced endpoint of session affinity", change(withEndpoint(sticky, "10.244.1.2:80")), counts{3, 4, 10, 556, 8, 320}},
		{"removed Service with session affinity", remove(sticky), counts{8, 2, 17, 1132, 4, 80}},
		{"restored element", l.restoreSlot, counts{1, 2, 4, 216, 4, 100}},
		{"restart with slots read by key", restart, counts{2, 108, 1048, 333_432, 4300, 530_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.HasSuffix(c.name, "by key") {
				l.readByKey(1)
			}
			before := l.kernel.Traffic()
			elements := nft.ElementOperations(c.do())
			after := l.kernel.Traffic()
			got := counts{elements, after.Sends - before.Sends, after.Messages - before.Messages, after.Sent - before.Sent,
				after.Receives - before.Receives, after.Received - before.Received}
			bounded := got
			if got.receives <= c.want.receives {
				bounded.receives = c.want.receives
			}
			if got.received <= c.want.received {
				bounded.received = c.want.received
			}
			if bounded != c.want {
				t.Errorf("got  counts{%s},\nwant counts{%s}", got, c.want)
			}
		})
	}
}

// withEndpoint returns the Service with another first endpoint.
func withEndpoint(s render.Service, at string) render.Service {
	s.Ports = []render.Port{s.Ports[0]}
	s.Ports[0].Endpoints = append([]render.Endpoint{endpoint(at)}, s.Ports[0].Endpoints[1:]...)
	return s
}

// restoreSlot restores one slot that another program changed.
func (l *testNode) restoreSlot() []nft.Change {
	l.t.Helper()
	frontend := render.Frontend{AddrPort: netip.AddrPortFrom(clusterService(7, 3, 0).ClusterIPs[0], 80), Protocol: nft.TCP}
	one := nft.Elements{Set: render.SchemaOf(nft.IPv4).Endpoints, List: []nft.Element{{Key: frontend.Key() + nft.Slot(0)}}}
	foreign := openKernel(l.t, l.node)
	if err := foreign.Apply([]nft.Change{{Op: nft.Delete, Object: one}}, 0); err != nil {
		l.t.Fatal(err)
	}
	found, err := l.kernel.ReadElements(one)
	if err != nil {
		l.t.Fatal(err)
	}
	changes := l.ruleset.Restore(one, found)
	if err := l.kernel.Apply(changes, 0); err != nil {
		l.t.Fatal(err)
	}
	return changes
}
