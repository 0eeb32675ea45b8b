package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"

	"nfproxy/sandbox"
)

// sticky is a lab with a Service of six endpoints that remembers its clients, and a pod with the addresses of all of them.
type affinityNode struct {
	*testNode
	family   nft.Family
	protocol nft.Protocol
	clients  []netip.Addr
	pod      *sandbox.Pod
	service  render.Service
}

const affinityClientCount = 60

func newAffinityNode(t *testing.T, f nft.Family, p nft.Protocol) *affinityNode {
	t.Helper()
	return newAffinityNodeFor(t, f, p, affinityClientCount)
}

func newAffinityNodeFor(t *testing.T, f nft.Family, p nft.Protocol, clients int) *affinityNode {
	t.Helper()
	s := &affinityNode{testNode: newTestNode(t).addNetwork(), family: f, protocol: p}
	format, vip := "10.244.%d.%d", "10.96.0.1:80"
	if f == nft.IPv6 {
		format, vip = "fd00:10:244:%d::%d", "[fd00:10:96::1]:80"
	}
	var endpoints, texts []string
	for i := range 6 {
		addr := fmt.Sprintf(format, 1, i+2)
		s.testNode.pod(addr, 8080, addr)
		endpoints = append(endpoints, netip.AddrPortFrom(netip.MustParseAddr(addr), 8080).String())
	}
	for i := range clients {
		texts = append(texts, fmt.Sprintf(format, 9+i/250, i%250+1))
		s.clients = append(s.clients, netip.MustParseAddr(texts[i]))
	}
	s.pod = s.testNode.pod("clients", 0, texts...)
	s.service = service("sticky", p, vip, endpoints...)
	s.service.Affinity = 3 * time.Hour
	ext := map[nft.Family]string{nft.IPv4: "203.0.113.9", nft.IPv6: "2001:db8:cb::9"}[f]
	s.service.ExternalIPs = []netip.Addr{netip.MustParseAddr(ext)}
	s.service.Ports[0].NodePort = 30080
	s.restart(s.service)
	return s
}

// restart is a new process, which knows nothing but the Service and what the kernel has.
func (s *affinityNode) restart(svc render.Service) []nft.Change {
	s.t.Helper()
	s.ruleset = render.NewRuleset(s.facts)
	s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{svc}})
	return s.reconcile()
}

// connect opens a connection as one of the clients and returns who answered.
func (s *affinityNode) connect(t *testing.T, client int, frontend string) string {
	t.Helper()
	from := netip.AddrPortFrom(s.clients[client], 0).String()
	got, err := connect(s.pod.Namespace, s.protocol, from, frontend, connectTimeout)
	if err != nil {
		t.Errorf("client %d at %s: %v", client, from, err)
	}
	return got.endpoint.String()
}

// frontends are the Service's addresses: cluster IP, external IP, node port.
func (s *affinityNode) frontends() []string {
	node := s.facts.Addresses[0]
	if s.family == nft.IPv6 {
		node = s.facts.Addresses[1]
	}
	return []string{
		netip.AddrPortFrom(s.service.ClusterIPs[0], 80).String(),
		netip.AddrPortFrom(s.service.ExternalIPs[0], 80).String(),
		netip.AddrPortFrom(node, 30080).String(),
	}
}

// homes lets every client connect once, some at a time, and returns who answered each.
func (s *affinityNode) connectAll(t *testing.T, frontend string) []string {
	t.Helper()
	const atATime = 8
	homes := make([]string, len(s.clients))
	var all sync.WaitGroup
	for first := range atATime {
		all.Go(func() {
			for i := first; i < len(homes) && !t.Failed(); i += atATime {
				homes[i] = s.connect(t, i, frontend)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return homes
}

// moved lists the clients whose home is another, save those that had to move, and those that had to and did not.
func moved(before, after []string, gone string) []string {
	var all []string
	for i, home := range before {
		if (home == gone) == (home == after[i]) || after[i] == gone {
			all = append(all, fmt.Sprintf("client %d from %s to %s", i, home, after[i]))
		}
	}
	return all
}

// without is the Service without one endpoint.
func (s *affinityNode) without(endpoint string) render.Service {
	svc := s.service
	svc.Ports = []render.Port{svc.Ports[0]}
	svc.Ports[0].Endpoints = nil
	for _, e := range s.service.Ports[0].Endpoints {
		if e.AddrPort.String() != endpoint {
			svc.Ports[0].Endpoints = append(svc.Ports[0].Endpoints, e)
		}
	}
	return svc
}

// TestAffinity: a client stays where it is: over connections, frontends, changes that do not concern it and a restart.
// When its endpoint goes it moves with its next connection, and the others do not.
func TestAffinity(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			t.Run(f.String()+"/"+p.String(), func(t *testing.T) {
				s := newAffinityNode(t, f, p)
				homes := s.connectAll(t, s.frontends()[0])
				if distinct := slices.Compact(slices.Sorted(slices.Values(homes))); len(distinct) < 3 {
					t.Errorf("60 clients found %v alone", distinct) // once in ten million million runs
				}
				s.checkUnmoved(t, homes, "at once")
				s.changeUnrelatedEndpoint(func(int) {})
				s.checkUnmoved(t, homes, "after 100 changes")
				if changes := s.restart(s.service); !onlyUnusedChains(changes) {
					t.Errorf("a restart sends %v", changes)
				}
				s.checkUnmoved(t, homes, "after a restart")
				s.checkUnmoved(t, s.removeEndpoint(t, homes), "after the endpoint went")
			})
		}
	}
}

// TestAffinityThousandClients: the same with a thousand clients, of whom some connect after each of the changes.
func TestAffinityThousandClients(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			s := newAffinityNodeFor(t, f, nft.TCP, 1000)
			cluster := s.frontends()[0]
			homes := s.connectAll(t, cluster)
			table := map[nft.Family]int{nft.IPv4: 0, nft.IPv6: 1}[f]
			if n := len(s.tables()[table].Set("affinity/test/sticky/tcp/main").Elements); n != 1000 {
				t.Errorf("%d clients are remembered", n)
			}
			s.changeUnrelatedEndpoint(func(change int) {
				for i := change; i < len(homes); i += 100 {
					if got := s.connect(t, i, cluster); got != homes[i] {
						t.Fatalf("after %d changes client %d moved from %s to %s", change+1, i, homes[i], got)
					}
				}
			})
			s.restart(s.service)
			if all := moved(homes, s.connectAll(t, cluster), ""); len(all) > 0 {
				t.Errorf("after a restart %d clients have moved: %v", len(all), all)
			}
			after := s.removeEndpoint(t, homes)
			if all := moved(after, s.connectAll(t, cluster), ""); len(all) > 0 {
				t.Errorf("after the endpoint went %d clients have moved again: %v", len(all), all)
			}
		})
	}
}

// staying fails unless every client is still at home, at every frontend.
func (s *affinityNode) checkUnmoved(t *testing.T, homes []string, when string) {
	t.Helper()
	for _, frontend := range s.frontends() {
		if all := moved(homes, s.connectAll(t, frontend), ""); len(all) > 0 {
			t.Fatalf("%s, %s: %v", when, frontend, all)
		}
	}
}

// restless makes 100 changes that concern no client: an endpoint that nobody has been sent to comes, is not ready,
// terminates and goes. It ends as it began.
func (s *affinityNode) changeUnrelatedEndpoint(each func(change int)) {
	s.t.Helper()
	for i := range 100 {
		more := s.service
		more.Ports = slices.Clone(more.Ports)
		if i%4 != 3 {
			extra := more.Ports[0].Endpoints[0]
			extra.AddrPort = netip.AddrPortFrom(extra.Addr(), 9) // the first in order: it would have slot 0
			extra.Ready, extra.Terminating = i%4 == 0, i%4 == 2
			more.Ports[0].Endpoints = slices.Concat([]render.Endpoint{extra}, more.Ports[0].Endpoints)
		}
		s.apply(render.Update{Services: []render.Service{more}})
		each(i)
	}
}

// bereave takes an endpoint away: its clients move with one connection, nobody else does. It returns where they live now.
func (s *affinityNode) removeEndpoint(t *testing.T, homes []string) []string {
	t.Helper()
	gone := homes[0]
	s.apply(render.Update{Services: []render.Service{s.without(gone)}})
	after := s.connectAll(t, s.frontends()[0])
	if all := moved(homes, after, gone); len(all) > 0 {
		t.Errorf("%s is gone: %v", gone, all)
	}
	return after
}

// TestAffinityAcrossRestart: endpoints that went while nobody was watching are forgotten at the start.
func TestAffinityAcrossRestart(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	homes := s.connectAll(t, s.frontends()[0])
	gone := homes[0]
	s.restart(s.without(gone))
	if all := moved(homes, s.connectAll(t, s.frontends()[0]), gone); len(all) > 0 {
		t.Errorf("%s is gone: %v", gone, all)
	}
}

// TestAffinityForgetsLatecomers: a client that learns an endpoint while the endpoint goes, after the map was read for the
// clients to forget and before the commit, is forgotten all the same. Here the commit itself brings it; the map's own
// timeout makes it one that packets could have learnt.
func TestAffinityForgetsLatecomers(t *testing.T) {
	l := newTestNode(t)
	l.nft("add table ip nfproxy\n"+
		"add map ip nfproxy m { type ipv4_addr : ipv4_addr . inet_service; size 100; flags dynamic,timeout; timeout 1h; }\n", "-f", "-")
	m := &nft.Set{Table: nft.TableID{Family: nft.IPv4, Name: "nfproxy"}, Name: "m", Key: []nft.Type{nft.IPv4Addr},
		Data: []nft.Type{nft.IPv4Addr, nft.InetService}, Dynamic: true, Size: 100}
	client := func(n byte) nft.Value { return nft.Addr(netip.AddrFrom4([4]byte{10, 244, 9, n})) }
	goes, stays := nft.Addr(netip.MustParseAddr("10.244.1.2"))+nft.Port(8080), nft.Addr(netip.MustParseAddr("10.244.1.3"))+nft.Port(8080)
	add := func(elements ...nft.Element) nft.Change {
		return nft.Change{Op: nft.Add, Object: nft.Elements{Set: m, List: elements}}
	}
	forget := nft.Change{Op: nft.Delete, Object: nft.DynamicElements{Set: m, Data: []nft.Value{goes}}}
	for _, changes := range [][]nft.Change{
		{add(nft.Element{Key: client(1), Data: goes}, nft.Element{Key: client(2), Data: stays})},
		{forget, add(nft.Element{Key: client(3), Data: goes}, nft.Element{Key: client(4), Data: stays})},
	} {
		if err := l.kernel.Apply(changes, 0); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	for _, e := range l.tables()[0].Set("m").Elements {
		left = append(left, e.Key.Addr().String())
	}
	if slices.Sort(left); !slices.Equal(left, []string{"10.244.9.2", "10.244.9.4"}) {
		t.Errorf("remembered are %v", left)
	}
}

// TestAffinityForgetsDying: clients whose entries are about to expire leave an endpoint that goes like all others.
func TestAffinityForgetsExpiring(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	s.service.Affinity = time.Second
	s.apply(render.Update{Services: []render.Service{s.service}})
	cluster := s.frontends()[0]
	homes := s.connectAll(t, cluster)
	s.apply(render.Update{Services: []render.Service{s.without(homes[0])}})
	for i, home := range s.connectAll(t, cluster) {
		if home == homes[0] {
			t.Errorf("client %d is sent to %s, which is gone", i, home)
		}
	}
}

// TestAffinityEnds: without connections a client is forgotten after the timeout; with affinity switched off nothing is
// left of it; switched on again it works.
func TestAffinityExpires(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	s.service.Affinity = time.Second
	s.apply(render.Update{Services: []render.Service{s.service}})
	const clients = "affinity/test/sticky/tcp/main"
	s.connectAll(t, s.frontends()[0])
	if n := len(s.tables()[0].Set(clients).Elements); n != affinityClientCount {
		t.Errorf("%d clients are remembered", n)
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(s.tables()[0].Set(clients).Elements) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("clients are not forgotten")
		}
		time.Sleep(50 * time.Millisecond)
	}
	plain := s.service
	plain.Affinity = 0
	s.apply(render.Update{Services: []render.Service{plain}})
	table := s.tables()[0]
	if table.Set(clients) != nil || table.Chain(clients) != nil {
		t.Errorf("affinity is off, and there is\n%s", table)
	}
	s.connectAll(t, s.frontends()[1])
	s.apply(render.Update{Services: []render.Service{s.service}})
	s.connectAll(t, s.frontends()[2])
	s.apply(render.Update{Removed: []render.ServiceName{s.service.ServiceName}})
	if rest := nft.Diff(s.tables(), s.ruleset.Tables()); !onlyUnusedChains(rest) {
		t.Errorf("left behind: %v", rest)
	}
}

// TestAffinityLocal: with the policies Local a client is remembered apart for the ways that lead to this node's
// endpoints alone, and is never sent elsewhere on them.
func TestAffinityLocal(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	for i := range s.service.Ports[0].Endpoints {
		if i >= 2 {
			s.service.Ports[0].Endpoints[i].Node = "node-b"
		}
	}
	local := map[string]bool{}
	for _, e := range s.service.Ports[0].Endpoints[:2] {
		local[e.AddrPort.String()] = true
	}
	s.facts.ClusterCIDRs = prefixes("10.244.1.0/24") // the clients are outsiders
	for _, internal := range []bool{false, true} {
		s.service.InternalLocal, s.service.ExternalLocal = internal, !internal
		s.restart(s.service)
		wide, near := s.frontends()[0], s.frontends()[1]
		if internal {
			wide, near = near, wide
		}
		everywhere, here := s.connectAll(t, wide), s.connectAll(t, near)
		for i := range here {
			if !local[here[i]] {
				t.Errorf("internal %v: client %d was sent to %s", internal, i, here[i])
			}
			if got := s.connect(t, i, near); got != here[i] {
				t.Errorf("internal %v: client %d moved from %s to %s", internal, i, here[i], got)
			}
			if got := s.connect(t, i, wide); got != everywhere[i] {
				t.Errorf("internal %v: client %d moved from %s to %s", internal, i, everywhere[i], got)
			}
		}
	}
}

// TestAffinityLists: nft 1.0.6 lists affinity in both families; it loads that of IPv4 (TestOracleText), and aborts when
// it loads that of IPv6, as a ruleset of its own would make it do.
func TestAffinityListing(t *testing.T) {
	s := newAffinityNode(t, nft.IPv6, nft.TCP)
	s.connectAll(t, s.frontends()[0])
	s.nft("", "list", "ruleset")
	s.nft("", "--json", "list", "ruleset")
}

// TestAffinityTimeout: another timeout counts at once for clients that are remembered, whether it is given by an update or
// at a start: as if it had been this one since their last connection.
func TestAffinityTimeout(t *testing.T) {
	const clients = "affinity/test/sticky/tcp/main"
	for _, restart := range []bool{false, true} {
		s := newAffinityNode(t, nft.IPv4, nft.TCP)
		homes := s.connectAll(t, s.frontends()[0])
		change := func(timeout time.Duration) {
			s.service.Affinity = timeout
			if !restart {
				s.apply(render.Update{Services: []render.Service{s.service}})
				return
			}
			s.restart(s.service)
		}
		change(24 * time.Hour)
		if got := s.connectAll(t, s.frontends()[0]); !slices.Equal(got, homes) {
			t.Errorf("restart %v: a longer timeout moved clients", restart)
		}
		change(2 * time.Second)
		if n := len(s.tables()[0].Set(clients).Elements); n != affinityClientCount {
			t.Errorf("restart %v: a shorter timeout has left %d clients", restart, n)
		}
		deadline := time.Now().Add(20 * time.Second)
		for len(s.tables()[0].Set(clients).Elements) > 0 {
			if time.Now().After(deadline) {
				t.Fatalf("restart %v: clients keep the old timeout", restart)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}
