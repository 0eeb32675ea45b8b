package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// sticky is a lab with a Service of six endpoints that remembers its clients, and a pod with many addresses.
type sticky struct {
	*lab
	family  nft.Family
	connect func(t *testing.T, i int, frontend string) string
	service render.Service
}

const stickyClients = 60

func newSticky(t *testing.T, f nft.Family, p nft.Protocol) *sticky {
	t.Helper()
	s := &sticky{lab: newLab(t).addNetwork(), family: f}
	format, vip := "10.244.%d.%d", "10.96.0.1:80"
	if f == nft.IPv6 {
		format, vip = "fd00:10:244:%d::%d", "[fd00:10:96::1]:80"
	}
	var endpoints, clients []string
	for i := range 6 {
		addr := fmt.Sprintf(format, 1, i+2)
		s.pod(addr, 8080, addr)
		endpoints = append(endpoints, netip.AddrPortFrom(netip.MustParseAddr(addr), 8080).String())
	}
	for i := range stickyClients {
		clients = append(clients, fmt.Sprintf(format, 9, i+1))
	}
	pod := s.pod("clients", 0, clients...)
	s.connect = func(t *testing.T, i int, frontend string) string {
		t.Helper()
		from := netip.AddrPortFrom(netip.MustParseAddr(clients[i]), 0).String()
		got, err := connect(pod.Namespace, p, from, frontend, patience)
		if err != nil {
			t.Fatalf("client %s: %v", clients[i], err)
		}
		return got.endpoint.String()
	}
	s.service = service("sticky", p, vip, endpoints...)
	s.service.Affinity = 3 * time.Hour
	ext := map[nft.Family]string{nft.IPv4: "203.0.113.9", nft.IPv6: "2001:db8:cb::9"}[f]
	s.service.ExternalIPs = []netip.Addr{netip.MustParseAddr(ext)}
	s.service.Ports[0].NodePort = 30080
	s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{s.service}})
	s.reconcile()
	return s
}

// frontends are the Service's addresses: cluster IP, external IP, node port.
func (s *sticky) frontends() []string {
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

// homes lets every client connect once and returns who answered each.
func (s *sticky) homes(t *testing.T, frontend string) []string {
	t.Helper()
	homes := make([]string, stickyClients)
	for i := range homes {
		homes[i] = s.connect(t, i, frontend)
	}
	return homes
}

// without is the Service without one endpoint.
func (s *sticky) without(endpoint string) render.Service {
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
				s := newSticky(t, f, p)
				cluster := s.frontends()[0]
				homes := s.homes(t, cluster)
				distinct := make(map[string]bool)
				for _, h := range homes {
					distinct[h] = true
				}
				if len(distinct) < 3 { // which 60 fair draws among six miss less than once in ten million million runs
					t.Errorf("60 clients found %d endpoints of 6", len(distinct))
				}
				stay := func(when string) {
					t.Helper()
					for _, frontend := range s.frontends() {
						for i := range homes {
							if got := s.connect(t, i, frontend); got != homes[i] {
								t.Fatalf("%s, client %d moved at %s from %s to %s", when, i, frontend, homes[i], got)
							}
						}
					}
				}
				stay("at once")
				for i := range 100 { // endpoints that nobody has been sent to come and go
					more := s.service
					more.Ports = []render.Port{more.Ports[0]}
					if i%2 == 0 {
						extra := more.Ports[0].Endpoints[0]
						extra.AddrPort = netip.AddrPortFrom(extra.Addr(), 9)
						extra.Ready = i%4 == 0
						more.Ports[0].Endpoints = append([]render.Endpoint{extra}, more.Ports[0].Endpoints...)
					}
					s.apply(render.Update{Services: []render.Service{more}})
				}
				stay("after 100 changes")
				s.ruleset = render.NewRuleset(s.facts)
				s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{s.service}})
				if changes := s.reconcile(); !onlyUnusedChains(changes) {
					t.Errorf("a restart sends %v", changes)
				}
				stay("after a restart")

				gone := homes[0]
				s.apply(render.Update{Services: []render.Service{s.without(gone)}})
				for i, h := range homes {
					got := s.connect(t, i, cluster)
					if got == gone || h != gone && got != h {
						t.Errorf("%s is gone, client %d of %s is sent to %s", gone, i, h, got)
					}
					homes[i] = got
				}
				stay("after the endpoint went")
			})
		}
	}
}

// TestAffinityAcrossRestart: endpoints that went while nobody was watching are forgotten at the start.
func TestAffinityAcrossRestart(t *testing.T) {
	s := newSticky(t, nft.IPv4, nft.TCP)
	cluster := s.frontends()[0]
	homes := s.homes(t, cluster)
	gone := homes[0]
	s.ruleset = render.NewRuleset(s.facts)
	s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{s.without(gone)}})
	s.reconcile()
	for i, h := range homes {
		if got := s.connect(t, i, cluster); got == gone || h != gone && got != h {
			t.Errorf("%s is gone, client %d of %s is sent to %s", gone, i, h, got)
		}
	}
}

// TestAffinityEnds: without connections a client is forgotten after the timeout; with affinity switched off nothing is
// left of it; switched on again it works.
func TestAffinityEnds(t *testing.T) {
	s := newSticky(t, nft.IPv4, nft.TCP)
	s.service.Affinity = time.Second
	s.apply(render.Update{Services: []render.Service{s.service}})
	const clients = "affinity/test/sticky/tcp/main"
	s.homes(t, s.frontends()[0])
	if n := len(s.tables()[0].Set(clients).Elements); n != stickyClients {
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
	s.homes(t, s.frontends()[1])
	s.apply(render.Update{Services: []render.Service{s.service}})
	s.homes(t, s.frontends()[2])
	s.apply(render.Update{Removed: []render.ServiceName{s.service.ServiceName}})
	if rest := nft.Diff(s.tables(), s.ruleset.Tables()); !onlyUnusedChains(rest) {
		t.Errorf("left behind: %v", rest)
	}
}

// TestAffinityLocal: with the policies Local a client is remembered apart for the ways that lead to this node's
// endpoints alone, and is never sent elsewhere on them.
func TestAffinityLocal(t *testing.T) {
	s := newSticky(t, nft.IPv4, nft.TCP)
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
		s.ruleset = render.NewRuleset(s.facts)
		s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{s.service}})
		s.reconcile()
		wide, near := s.frontends()[0], s.frontends()[1]
		if internal {
			wide, near = near, wide
		}
		everywhere, here := s.homes(t, wide), s.homes(t, near)
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
func TestAffinityLists(t *testing.T) {
	s := newSticky(t, nft.IPv6, nft.TCP)
	s.homes(t, s.frontends()[0])
	s.nft("", "list", "ruleset")
	s.nft("", "--json", "list", "ruleset")
}

// TestAffinityTimeout: another timeout counts at once for clients that are remembered, whether it is given by an update or
// at a start: as if it had been this one since their last connection.
func TestAffinityTimeout(t *testing.T) {
	const clients = "affinity/test/sticky/tcp/main"
	for _, restart := range []bool{false, true} {
		s := newSticky(t, nft.IPv4, nft.TCP)
		homes := s.homes(t, s.frontends()[0])
		change := func(timeout time.Duration) {
			s.service.Affinity = timeout
			if !restart {
				s.apply(render.Update{Services: []render.Service{s.service}})
				return
			}
			s.ruleset = render.NewRuleset(s.facts)
			s.ruleset.Update(render.Update{Node: s.facts, Services: []render.Service{s.service}})
			s.reconcile()
		}
		change(24 * time.Hour)
		if got := s.homes(t, s.frontends()[0]); !slices.Equal(got, homes) {
			t.Errorf("restart %v: a longer timeout moved clients", restart)
		}
		change(2 * time.Second)
		if n := len(s.tables()[0].Set(clients).Elements); n != stickyClients {
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
