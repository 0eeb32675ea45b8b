package kernel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestRandomWalk: whatever changes led to a state, the kernel has the same tables as one that was given only that state, apart
// from slots and unused chains.
func TestRandomWalk(t *testing.T) {
	const seed, steps = 7, 80
	walker, fresh := newTestNode(t), newTestNode(t)
	w := walk{rand: rand.New(rand.NewPCG(seed, seed)), now: make(map[render.ServiceName]render.Service)}
	walker.reconcile()
	for step := range steps {
		how := "update"
		u := w.step()
		switch {
		case step%10 == 5: // restart: only the kernel's tables are known
			how = "restart"
			walker.ruleset = render.NewRuleset(walker.facts)
			walker.ruleset.Update(render.Update{Node: walker.facts, Services: w.services()})
			walker.reconcile()
		case step%10 == 8: // another program has changed the tables
			how = "tampered"
			w.tamper(walker, step)
			walker.ruleset.Update(withNode(u, walker.facts))
			walker.reconcile()
		case step%10 == 3: // the node's facts change: a source sends all Services again
			how = "node"
			walker.facts.MasqueradeAll = !walker.facts.MasqueradeAll
			walker.facts.Addresses = walker.facts.Addresses[:1+step%2]
			walker.facts.ServiceCIDRs = prefixes("10.96.0.0/16", "fd00:10:96::/112")[:step/10%3]
			fresh.facts = walker.facts
			u.Services = w.services()
			walker.apply(u)
		default:
			walker.apply(u)
		}
		if redo := nft.Diff(walker.tables(), walker.ruleset.Tables()); !onlyUnusedChains(redo) {
			t.Fatalf("step %d (%s): the kernel differs from the ruleset by %v", step, how, redo)
		}
		fresh.kernel.Apply(nft.Diff(fresh.tables(), nil), 0)
		fresh.ruleset = render.NewRuleset(fresh.facts)
		fresh.ruleset.Update(render.Update{Node: fresh.facts, Services: w.services()})
		fresh.reconcile()
		if got, want := normalized(t, walker.tables()), normalized(t, fresh.tables()); got != want {
			t.Fatalf("step %d (%s): the kernel has\n%s\na new kernel has\n%s", step, how, got, want)
		}
		if extra := walker.apply(render.Update{Services: w.services()}); len(extra) > 0 {
			t.Fatalf("step %d (%s): an update without a change applies %v", step, how, extra)
		}
	}
}

// TestDiffWalk: Diff and Apply lead from any tables to any others.
func TestDiffWalk(t *testing.T) {
	l := newTestNode(t)
	w := walk{rand: rand.New(rand.NewPCG(3, 3)), now: make(map[render.ServiceName]render.Service)}
	states := [][]*nft.Table{nil}
	for range 8 {
		w.step()
		node := l.facts
		node.ServiceCIDRs = node.ServiceCIDRs[:w.rand.IntN(3)]
		node.ClusterCIDRs = node.ClusterCIDRs[:w.rand.IntN(3)]
		states = append(states, render.Tables(render.Update{Node: node, Services: w.services()}))
	}
	for _, i := range w.rand.Perm(len(states) * len(states)) {
		from, to := states[i/len(states)], states[i%len(states)]
		for _, want := range [][]*nft.Table{from, to} {
			if err := l.kernel.Apply(nft.Diff(l.tables(), want), 0); err != nil {
				t.Fatalf("from state %d to %d: %v", i/len(states), i%len(states), err)
			}
			if rest := nft.Diff(l.tables(), want); len(rest) > 0 {
				t.Fatalf("from state %d to %d: the kernel differs by %v", i/len(states), i%len(states), rest)
			}
		}
	}
}

// TestForeignTables: a foreign table survives a first load and a cleanup unchanged.
func TestForeignTables(t *testing.T) {
	l := newTestNode(t)
	const foreign = "table ip other {\n\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 10.96.0.1 }\n\t}\n}\n"
	l.nft(foreign, "-f", "-")
	l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
	l.reconcile()
	l.kernel.Apply(nft.Diff(l.tables(), nil), 0)
	if got := l.nft("", "list", "ruleset"); got != foreign {
		t.Errorf("after a load and a cleanup nft lists\n%s", got)
	}
}

// walk is a cluster that changes at random.
type walk struct {
	rand *rand.Rand
	now  map[render.ServiceName]render.Service
}

// services returns all Services of the cluster.
func (w *walk) services() []render.Service {
	var all []render.Service
	for _, s := range w.now {
		all = append(all, s)
	}
	return all
}

// step changes one to four of a dozen Services. Addresses and ports collide on purpose, so that Services claim each other's
// frontends.
func (w *walk) step() render.Update {
	var u render.Update
	for range 1 + w.rand.IntN(4) {
		name := render.ServiceName{Namespace: "walk", Name: fmt.Sprintf("s%d", w.rand.IntN(12))}
		forget := func(n render.ServiceName) {
			u.Services = slices.DeleteFunc(u.Services, func(s render.Service) bool { return s.ServiceName == n })
			u.Removed = slices.DeleteFunc(u.Removed, func(r render.ServiceName) bool { return r == n })
		}
		forget(name)
		if _, ok := w.now[name]; ok && w.rand.IntN(4) == 0 {
			delete(w.now, name)
			u.Removed = append(u.Removed, name)
			continue
		}
		s := w.service(name)
		w.now[name] = s
		u.Services = append(u.Services, s)
	}
	return u
}

// service returns a random Service.
func (w *walk) service(name render.ServiceName) render.Service {
	s := render.Service{ServiceName: name, Created: time.Unix(int64(w.rand.IntN(3)), 0)}
	n := byte(w.rand.IntN(9))
	s.ClusterIPs = append(s.ClusterIPs, netip.AddrFrom4([4]byte{10, 96, 0, n}))
	s.Affinity = time.Duration(max(0, w.rand.IntN(6)-3)) * time.Hour
	s.InternalLocal, s.ExternalLocal = w.rand.IntN(3) == 0, w.rand.IntN(3) == 0
	if w.rand.IntN(4) == 0 {
		s.Limits = render.Limits{Rate: hourly(uint32(1 + w.rand.IntN(3))), Drop: w.rand.IntN(2) == 0}
	}
	if w.rand.IntN(4) == 0 {
		s.Limits.ClientRate = hourly(uint32(1 + w.rand.IntN(3)))
	}
	for range w.rand.IntN(3) {
		s.ExternalIPs = append(s.ExternalIPs, netip.AddrFrom4([4]byte{203, 0, 113, byte(w.rand.IntN(9))}))
	}
	for range w.rand.IntN(3) {
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, netip.MustParseAddr(fmt.Sprintf("2001:db8:cb::%x", w.rand.IntN(9))),
			netip.AddrFrom4([4]byte{203, 0, 113, byte(w.rand.IntN(9))}))
	}
	for range w.rand.IntN(3) {
		s.SourceRanges = append(s.SourceRanges,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(w.rand.IntN(4)), 0}), w.rand.IntN(33)).Masked(),
			netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::", w.rand.IntN(4))), w.rand.IntN(129)).Masked())
	}
	if w.rand.IntN(2) == 0 {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(fmt.Sprintf("fd00:10:96::%x", n)))
	}
	for i := range w.rand.IntN(4) {
		p := render.Port{Name: fmt.Sprintf("p%d", i), Port: uint16(80 + i), NodePort: uint16(max(0, w.rand.IntN(40)-30)),
			Protocol: []nft.Protocol{nft.TCP, nft.UDP, nft.SCTP}[w.rand.IntN(3)]}
		for range w.rand.IntN(7) {
			p.Endpoints = append(p.Endpoints, w.endpoint())
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

// endpoint returns a random endpoint.
func (w *walk) endpoint() render.Endpoint {
	addr := netip.AddrFrom4([4]byte{10, 244, 1, byte(w.rand.IntN(20))})
	if w.rand.IntN(2) == 0 {
		addr = netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", w.rand.IntN(20)))
	}
	return render.Endpoint{AddrPort: netip.AddrPortFrom(addr, 8080), Ready: w.rand.IntN(5) > 0,
		Serving: w.rand.IntN(2) > 0, Terminating: w.rand.IntN(2) > 0, Node: []string{"node-a", "node-b"}[w.rand.IntN(2)]}
}

// tamper changes the tables as other programs might.
func (w *walk) tamper(l *testNode, step int) {
	switch (step / 10) % 5 {
	case 0:
		l.nft("", "flush", "ruleset")
	case 1:
		l.nft("", "flush", "map", "ip", "nfproxy", "services")
	case 2:
		l.nft("", "add", "rule", "ip", "nfproxy", "dispatch", "tcp", "dport", "22", "counter", "accept")
	case 3:
		l.nft("", "flush", "chain", "ip6", "nfproxy", "dispatch")
		l.nft("add chain ip nfproxy stray { type filter hook input priority 5; }\n"+
			"add set ip nfproxy strange { type ifname; }\nadd element ip nfproxy service-cidrs { 172.16.0.1-172.16.0.9 }", "-f", "-")
	case 4:
		l.nft("", "delete", "table", "ip6", "nfproxy")
	}
}

func withNode(u render.Update, n render.Node) render.Update {
	u.Node = n
	return u
}

// onlyUnusedChains reports whether the changes only flush or delete balancing chains, which the hot path leaves
// behind unused.
func onlyUnusedChains(changes []nft.Change) bool {
	return len(render.WithoutUnusedObjects(slices.Clone(changes))) == 0
}

// normalized returns the text of tables without what depends on their history: the slots of endpoints, balancing chains, and chains and
// empty sets for limits.
func normalized(t *testing.T, tables []*nft.Table) string {
	t.Helper()
	var b strings.Builder
	for _, table := range tables {
		table.Chains = slices.DeleteFunc(table.Chains, func(c *nft.Chain) bool { return render.IsBalancing(c.Name) || render.IsLimiting(c.Name) })
		table.Sets = slices.DeleteFunc(table.Sets, func(s *nft.Set) bool {
			return len(s.Elements) == 0 && (slices.Contains([]string{"rates", "over-limit", "within-limit"}, s.Name) || strings.HasPrefix(s.Name, "clients-"))
		})
		for _, name := range []string{"endpoints", "local-endpoints"} {
			inSlotOrder(t, table.Set(name))
		}
		b.WriteString(table.String())
	}
	return b.String()
}

// inSlotOrder checks that the slots of a frontend are 0 to N-1 and renumbers all endpoints in the order of their addresses.
func inSlotOrder(t *testing.T, endpoints *nft.Set) {
	t.Helper()
	next := make(map[nft.Value]uint16)
	for _, e := range endpoints.Elements {
		frontend, slot := e.Key[:len(e.Key)-2], e.Key[len(e.Key)-2:].Uint16()
		if slot != next[frontend] {
			t.Errorf("frontend %x has slot %d, want slot %d next", frontend, slot, next[frontend])
		}
		next[frontend]++
	}
	slices.SortFunc(endpoints.Elements, func(a, b nft.Element) int {
		return strings.Compare(string(a.Key[:len(a.Key)-2]+a.Data), string(b.Key[:len(b.Key)-2]+b.Data))
	})
	for i := range endpoints.Elements {
		e := &endpoints.Elements[i]
		e.Key = e.Key[:len(e.Key)-2] + nft.Slot(uint16(i))
	}
}
