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

// affinityNode is a node with a Service that has session affinity and six endpoints, and a pod with the addresses of all clients.
type affinityNode struct {
	*testNode
	family   nft.Family
	protocol nft.Protocol
	clients  []netip.Addr
	ports    []uint16 // of the last connection of each client
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
	s.ports = slices.Repeat([]uint16{40000}, clients)
	s.pod = s.testNode.pod("clients", 0, texts...)
	s.service = service("sticky", p, vip, endpoints...)
	s.service.Affinity = 3 * time.Hour
	ext := map[nft.Family]string{nft.IPv4: "203.0.113.9", nft.IPv6: "2001:db8:cb::9"}[f]
	s.service.ExternalIPs = []netip.Addr{netip.MustParseAddr(ext)}
	s.service.Ports[0].NodePort = 30080
	s.restart(s.service)
	return s
}

// connect opens a connection as one of the clients and returns the endpoint that answers. No client uses a port twice: the
// conntrack entry of an earlier UDP packet from the same port would decide instead of the rules, because only the daemon deletes
// the entries of removed endpoints.
func (s *affinityNode) connect(t *testing.T, client int, frontend string) string {
	t.Helper()
	s.ports[client]++
	from := netip.AddrPortFrom(s.clients[client], s.ports[client]).String()
	got, err := connect(s.pod.Namespace, s.protocol, from, frontend, connectTimeout)
	if err != nil {
		t.Errorf("connection of client %d from %s: %v", client, from, err)
	}
	return got.endpoint.String()
}

// frontends returns the Service's frontends: cluster IP, external IP, node port.
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

// connectAll makes every client connect once, eight at a time, and returns the endpoint of each client.
func (s *affinityNode) connectAll(t *testing.T, frontend string) []string {
	t.Helper()
	const concurrent = 8
	endpoints := make([]string, len(s.clients))
	var all sync.WaitGroup
	for first := range concurrent {
		all.Go(func() {
			for i := first; i < len(endpoints) && !t.Failed(); i += concurrent {
				endpoints[i] = s.connect(t, i, frontend)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return endpoints
}

// moved lists the clients that moved to another endpoint, and those that did not although their endpoint is gone.
func moved(before, after []string, gone string) []string {
	var all []string
	for i, endpoint := range before {
		if (endpoint == gone) == (endpoint == after[i]) || after[i] == gone {
			all = append(all, fmt.Sprintf("client %d from %s to %s", i, endpoint, after[i]))
		}
	}
	return all
}

// without returns the Service without one endpoint.
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

// TestAffinity: a client keeps its endpoint over connections, frontends, changes of other endpoints and a restart. When its
// endpoint is removed, its next connection moves it to another; the other clients stay.
func TestAffinity(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, p := range []nft.Protocol{nft.TCP, nft.UDP} {
			t.Run(f.String()+"/"+p.String(), func(t *testing.T) {
				s := newAffinityNode(t, f, p)
				endpoints := s.connectAll(t, s.frontends()[0])
				if distinct := slices.Compact(slices.Sorted(slices.Values(endpoints))); len(distinct) < 3 {
					t.Errorf("60 clients reach only %v", distinct) // happens by chance once in 10^13 runs
				}
				s.checkUnmoved(t, endpoints, "at once")
				s.changeUnrelatedEndpoint(func(int) {})
				s.checkUnmoved(t, endpoints, "after 100 changes")
				if changes := s.restart(s.service); !onlyUnusedChains(changes) {
					t.Errorf("a restart applies %v, want no change", changes)
				}
				s.checkUnmoved(t, endpoints, "after a restart")
				s.checkUnmoved(t, s.removeEndpoint(t, endpoints), "after the removal of an endpoint")
			})
		}
	}
}

// TestAffinityThousandClients: the same with a thousand clients, some of which connect after each change.
func TestAffinityThousandClients(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			s := newAffinityNodeFor(t, f, nft.TCP, 1000)
			cluster := s.frontends()[0]
			endpoints := s.connectAll(t, cluster)
			table := map[nft.Family]int{nft.IPv4: 0, nft.IPv6: 1}[f]
			if n := len(s.tables()[table].Set("affinity/test/sticky/tcp/main").Elements); n != 1000 {
				t.Errorf("%d clients in the map, want 1000", n)
			}
			s.changeUnrelatedEndpoint(func(change int) {
				for i := change; i < len(endpoints); i += 100 {
					if got := s.connect(t, i, cluster); got != endpoints[i] {
						t.Fatalf("after %d changes client %d moved from %s to %s", change+1, i, endpoints[i], got)
					}
				}
			})
			s.restart(s.service)
			if all := moved(endpoints, s.connectAll(t, cluster), ""); len(all) > 0 {
				t.Errorf("after a restart %d clients moved: %v", len(all), all)
			}
			after := s.removeEndpoint(t, endpoints)
			if all := moved(after, s.connectAll(t, cluster), ""); len(all) > 0 {
				t.Errorf("after the removal of an endpoint %d clients moved twice: %v", len(all), all)
			}
		})
	}
}

// checkUnmoved fails the test unless every client reaches its endpoint at every frontend.
func (s *affinityNode) checkUnmoved(t *testing.T, endpoints []string, when string) {
	t.Helper()
	for _, frontend := range s.frontends() {
		if all := moved(endpoints, s.connectAll(t, frontend), ""); len(all) > 0 {
			t.Fatalf("%s, %s: %v", when, frontend, all)
		}
	}
}

// changeUnrelatedEndpoint makes 100 changes that concern no client, calling each after every one: an endpoint without clients
// is added, becomes unready, terminates and is removed. The Service ends as it began.
func (s *affinityNode) changeUnrelatedEndpoint(each func(change int)) {
	s.t.Helper()
	for i := range 100 {
		more := s.service
		more.Ports = slices.Clone(more.Ports)
		if i%4 != 3 {
			extra := more.Ports[0].Endpoints[0]
			extra.AddrPort = netip.AddrPortFrom(extra.Addr(), 9) // the lowest address and port: a new table would have it in slot 0
			extra.Ready, extra.Terminating = i%4 == 0, i%4 == 2
			more.Ports[0].Endpoints = slices.Concat([]render.Endpoint{extra}, more.Ports[0].Endpoints)
		}
		s.apply(render.Update{Services: []render.Service{more}})
		each(i)
	}
}

// removeEndpoint removes an endpoint, fails the test unless exactly its clients move, and returns the endpoint of each client.
func (s *affinityNode) removeEndpoint(t *testing.T, endpoints []string) []string {
	t.Helper()
	gone := endpoints[0]
	s.apply(render.Update{Services: []render.Service{s.without(gone)}})
	after := s.connectAll(t, s.frontends()[0])
	if all := moved(endpoints, after, gone); len(all) > 0 {
		t.Errorf("after the removal of %s: %v", gone, all)
	}
	return after
}

// TestAffinityAcrossRestart: a restart moves the clients of endpoints that were removed meanwhile, and no others.
func TestAffinityAcrossRestart(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	endpoints := s.connectAll(t, s.frontends()[0])
	gone := endpoints[0]
	s.restart(s.without(gone))
	if all := moved(endpoints, s.connectAll(t, s.frontends()[0]), gone); len(all) > 0 {
		t.Errorf("after the removal of %s: %v", gone, all)
	}
}

// TestAffinityForgetsLatecomers: a client whose packet adds it to the map after the map was read for stale elements and before
// the commit that removes its endpoint is deleted as well. Here the commit itself adds the client; the map's own timeout makes
// the element look like one that a packet added.
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
		t.Errorf("clients in the map: %v, want 10.244.9.2 and 10.244.9.4", left)
	}
}

// TestAffinityForgetsExpiring: clients whose elements are about to expire leave a removed endpoint like all others.
func TestAffinityForgetsExpiring(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	s.service.Affinity = time.Second
	s.apply(render.Update{Services: []render.Service{s.service}})
	cluster := s.frontends()[0]
	endpoints := s.connectAll(t, cluster)
	s.apply(render.Update{Services: []render.Service{s.without(endpoints[0])}})
	for i, endpoint := range s.connectAll(t, cluster) {
		if endpoint == endpoints[0] {
			t.Errorf("client %d reaches %s, which was removed", i, endpoint)
		}
	}
}

// TestAffinityExpires: the map forgets a client without connections after the timeout. When affinity is switched off, its
// objects are deleted; when it is switched on again, it works.
func TestAffinityExpires(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	s.service.Affinity = time.Second
	s.apply(render.Update{Services: []render.Service{s.service}})
	const clients = "affinity/test/sticky/tcp/main"
	begin := time.Now()
	s.connectAll(t, s.frontends()[0])
	if n := len(s.tables()[0].Set(clients).Elements); n > affinityClientCount || n < affinityClientCount && time.Since(begin) < s.service.Affinity {
		t.Errorf("%d clients in the map, want %d", n, affinityClientCount)
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(s.tables()[0].Set(clients).Elements) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the clients do not expire")
		}
		time.Sleep(50 * time.Millisecond)
	}
	plain := s.service
	plain.Affinity = 0
	s.apply(render.Update{Services: []render.Service{plain}})
	table := s.tables()[0]
	if table.Set(clients) != nil || table.Chain(clients) != nil {
		t.Errorf("affinity is off, but the table has its objects:\n%s", table)
	}
	s.connectAll(t, s.frontends()[1])
	s.apply(render.Update{Services: []render.Service{s.service}})
	s.connectAll(t, s.frontends()[2])
	s.apply(render.Update{Removed: []render.ServiceName{s.service.ServiceName}})
	if rest := nft.Diff(s.tables(), s.ruleset.Tables()); !onlyUnusedChains(rest) {
		t.Errorf("after the removal of the Service the kernel differs by %v", rest)
	}
}

// TestAffinityLocal: with a Local policy the frontends that lead only to this node's endpoints have a map of their own, and
// never send a client to another node.
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
	s.facts.ClusterCIDRs = prefixes("10.244.1.0/24") // the clients are outside the cluster
	for _, internal := range []bool{false, true} {
		s.service.InternalLocal, s.service.ExternalLocal = internal, !internal
		s.restart(s.service)
		wide, localOnly := s.frontends()[0], s.frontends()[1]
		if internal {
			wide, localOnly = localOnly, wide
		}
		everywhere, here := s.connectAll(t, wide), s.connectAll(t, localOnly)
		for i := range here {
			if !local[here[i]] {
				t.Errorf("internal %v: client %d reaches %s, which is not local", internal, i, here[i])
			}
			if got := s.connect(t, i, localOnly); got != here[i] {
				t.Errorf("internal %v: client %d moved from %s to %s", internal, i, here[i], got)
			}
			if got := s.connect(t, i, wide); got != everywhere[i] {
				t.Errorf("internal %v: client %d moved from %s to %s", internal, i, everywhere[i], got)
			}
		}
	}
}

// TestAffinityListing: nft 1.0.6 lists the affinity rules of both families. It loads those of IPv4 (TestOracleText) and aborts
// when it loads those of IPv6, even if it generated them itself.
func TestAffinityListing(t *testing.T) {
	s := newAffinityNode(t, nft.IPv6, nft.TCP)
	s.connectAll(t, s.frontends()[0])
	s.nft("", "list", "ruleset")
	s.nft("", "--json", "list", "ruleset")
}

// TestAffinityTimeout: a new timeout takes effect at once for the clients in the map, after an update and after a restart, as if
// it had applied since their last connection.
func TestAffinityTimeout(t *testing.T) {
	const clients = "affinity/test/sticky/tcp/main"
	for _, restart := range []bool{false, true} {
		s := newAffinityNode(t, nft.IPv4, nft.TCP)
		endpoints := s.connectAll(t, s.frontends()[0])
		change := func(timeout time.Duration) {
			s.service.Affinity = timeout
			if !restart {
				s.apply(render.Update{Services: []render.Service{s.service}})
				return
			}
			s.restart(s.service)
		}
		change(24 * time.Hour)
		begin := time.Now()
		if got := s.connectAll(t, s.frontends()[0]); !slices.Equal(got, endpoints) {
			t.Errorf("restart %v: a longer timeout moves clients", restart)
		}
		change(2 * time.Second)
		if n := len(s.tables()[0].Set(clients).Elements); n > affinityClientCount || n < affinityClientCount && time.Since(begin) < s.service.Affinity {
			t.Errorf("restart %v: after a shorter timeout %d clients in the map, want %d", restart, n, affinityClientCount)
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
