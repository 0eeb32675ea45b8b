package kernel

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// TestDumpWalk: after random changes the description that nfproxy dump -o json prints agrees with the Services, and it is the
// same whether the whole tables are read or only the parts that the description needs.
func TestDumpWalk(t *testing.T) {
	const seed, steps = 11, 40
	l := newTestNode(t)
	w := walk{rand: rand.New(rand.NewPCG(seed, seed)), now: make(map[render.ServiceName]render.Service)}
	l.reconcile()
	for step := range steps {
		l.apply(w.step())
		whole, light := describedAsJSON(t, l.tables()), describedAsJSON(t, readForDump(l))
		if whole != light {
			t.Fatalf("step %d: the whole tables are described as\n%s\nthe needed parts as\n%s", step, whole, light)
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
					if at := netip.AddrPortFrom(addr, p.Port); !seen[at] && s.Families().Has(render.Family(addr)) {
						t.Errorf("step %d: the description lacks frontend %s of %s", step, at, s.ServiceName)
					}
				}
			}
		}
	}
}

// TestDumpCatchAll: a catch-all element that another program has added to the frontends is none of them, and the rest is described.
func TestDumpCatchAll(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:80", "10.244.1.3:80")}})
	l.reconcile()
	want := describedAsJSON(t, readForDump(l))
	l.nft("", "add", "element", "ip", "nfproxy", "services", "{ * : goto lb-2 }")
	if got := describedAsJSON(t, readForDump(l)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// readForDump reads the parts of the tables that nfproxy dump reads.
func readForDump(l *testNode) []*nft.Table {
	l.t.Helper()
	second := openKernel(l.t, l.node)
	tables, err := l.kernel.ReadReferenced(second, report.DescribedSets(), report.Slots(render.Instance{}), render.Instance{}.TableIDs()...)
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

// checkDescribed compares a described frontend with the Service: the action, the affinity and the endpoints.
func checkDescribed(t *testing.T, n render.Node, s render.Service, d report.ServicePort, f report.Frontend) {
	t.Helper()
	i := slices.IndexFunc(s.Ports, func(p render.Port) bool {
		return p.Name == d.Port && (p.Port == f.Port || f.Kind == render.NodePort && p.NodePort == f.Port)
	})
	if i < 0 {
		t.Errorf("frontend %s:%d/%s belongs to no port of %s", f.Address, f.Port, d.Protocol, s.ServiceName)
		return
	}
	selected := render.Select(n, s.Ports[i], render.Family(f.Address))
	action, _ := render.RouteOf(f.Kind, s, selected)
	want, name := selected.Cluster, "balance"
	switch action {
	case render.Refuse:
		want, name = nil, "refuse"
	case render.Drop:
		want, name = nil, "drop"
	case render.ToLocal:
		want = selected.Local
	}
	if f.Action != name || !slices.Equal(describedAddrPorts(f.Endpoints), addrPorts(want)) {
		t.Errorf("%s at %s:%d, %s: %s to %v, want %s to %v", s.ServiceName, f.Address, f.Port, f.Kind, f.Action,
			describedAddrPorts(f.Endpoints), name, addrPorts(want))
	}
	if action == render.Split && (f.LocalEndpoints == nil || !slices.Equal(describedAddrPorts(*f.LocalEndpoints), addrPorts(selected.Local))) {
		t.Errorf("%s at %s:%d: local endpoints %v, want %v", s.ServiceName, f.Address, f.Port, f.LocalEndpoints, addrPorts(selected.Local))
	}
	if seconds := int(s.Affinity.Seconds()); name == "balance" && f.AffinitySeconds != seconds {
		t.Errorf("%s at %s:%d: affinity timeout %d s, want %d s", s.ServiceName, f.Address, f.Port, f.AffinitySeconds, seconds)
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
