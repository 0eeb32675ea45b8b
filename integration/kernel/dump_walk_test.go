package kernel

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/report"
)

// TestDumpWalk: what nfproxy dump -o json says of the kernel is what was applied, by whatever way, and the same whether it
// reads the whole tables or what it needs of them.
func TestDumpWalk(t *testing.T) {
	const seed, steps = 11, 40
	l := newTestNode(t)
	w := walk{rand: rand.New(rand.NewPCG(seed, seed)), now: make(map[render.ServiceName]render.Service)}
	l.reconcile()
	for step := range steps {
		l.apply(w.step())
		whole, light := describedAsJSON(t, l.tables()), describedAsJSON(t, readForDump(l))
		if whole != light {
			t.Fatalf("step %d: of the whole tables it says\n%s\nof what it reads\n%s", step, whole, light)
		}
		seen := make(map[netip.AddrPort]bool)
		for _, s := range report.Describe(l.tables()).Services {
			for _, f := range s.Frontends {
				seen[netip.AddrPortFrom(f.Address, f.Port)] = true
				checkDescribed(t, l.facts, w.now[render.ServiceName{Namespace: s.Namespace, Name: s.Name}], s, f)
			}
		}
		for _, s := range w.now {
			for _, p := range s.Ports {
				for _, addr := range slices.Concat(s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs) {
					if at := netip.AddrPortFrom(addr, p.Port); !seen[at] {
						t.Errorf("step %d: %s of %s is missing", step, at, s.ServiceName)
					}
				}
			}
		}
	}
}

// lightly reads what dump reads.
func readForDump(l *testNode) []*nft.Table {
	l.t.Helper()
	var second *kernel.Conn
	err := l.node.Do(func() (err error) {
		second, err = kernel.Open()
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	defer second.Close()
	tables, err := l.kernel.ReadReferenced(second, report.DescribedSets(), report.Slots, render.TableIDs()...)
	if err != nil {
		l.t.Fatal(err)
	}
	return tables
}

func describedAsJSON(t *testing.T, tables []*nft.Table) string {
	t.Helper()
	text, err := json.MarshalIndent(report.Describe(tables), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkDescribed compares a frontend with what the Service asks for: the action, the affinity and the endpoints.
func checkDescribed(t *testing.T, n render.Node, s render.Service, d report.ServicePort, f report.Frontend) {
	t.Helper()
	i := slices.IndexFunc(s.Ports, func(p render.Port) bool {
		return p.Name == d.Port && (p.Port == f.Port || f.Kind == render.NodePort && p.NodePort == f.Port)
	})
	if i < 0 {
		t.Errorf("%s:%d/%s is of no port of %s", f.Address, f.Port, d.Protocol, s.ServiceName)
		return
	}
	selected := render.Select(n, s.Ports[i], render.Family(f.Address))
	action, _ := render.RouteOf(f.Kind, s, selected)
	want, words := selected.Cluster, "balance"
	switch action {
	case render.Refuse:
		want, words = nil, "refuse"
	case render.Drop:
		want, words = nil, "drop"
	case render.ToLocal:
		want = selected.Local
	}
	if f.Action != words || !slices.Equal(describedAddrPorts(f.Endpoints), addrPorts(want)) {
		t.Errorf("%s at %s:%d, %s: %s to %v, want %s to %v", s.ServiceName, f.Address, f.Port, f.Kind, f.Action,
			describedAddrPorts(f.Endpoints), words, addrPorts(want))
	}
	if action == render.Split && (f.LocalEndpoints == nil || !slices.Equal(describedAddrPorts(*f.LocalEndpoints), addrPorts(selected.Local))) {
		t.Errorf("%s at %s:%d: from outside %v, want %v", s.ServiceName, f.Address, f.Port, f.LocalEndpoints, addrPorts(selected.Local))
	}
	if seconds := int(s.Affinity.Seconds()); words == "balance" && f.AffinitySeconds != seconds {
		t.Errorf("%s at %s:%d remembers for %d s, not %d", s.ServiceName, f.Address, f.Port, f.AffinitySeconds, seconds)
	}
}

func describedAddrPorts(described []report.Endpoint) []netip.AddrPort {
	var all []netip.AddrPort
	for _, e := range described {
		all = append(all, netip.AddrPortFrom(e.Address, e.Port))
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

func addrPorts(endpoints []render.Endpoint) []netip.AddrPort {
	var all []netip.AddrPort
	for _, e := range endpoints {
		all = append(all, e.AddrPort)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}
