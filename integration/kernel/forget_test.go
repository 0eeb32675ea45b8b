package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// forgetNode is a node with a table of many affinity maps, in which every second client has an endpoint that is removed.
type forgetNode struct {
	*testNode
	maps []*nft.Set
}

const (
	forgetMaps    = 1000
	forgetClients = 1000 // of each map
	// expiringClients more clients of the first map expire one after the other, expiringStep apart.
	expiringClients = 100
	expiringStep    = 25 * time.Millisecond
)

// removedEndpoint and keptEndpoint are the endpoints of all maps.
var (
	removedEndpoint = nft.Addr(netip.MustParseAddr("10.244.1.2")) + nft.Port(8080)
	keptEndpoint    = nft.Addr(netip.MustParseAddr("10.244.1.3")) + nft.Port(8080)
)

func newForgetNode(t *testing.T) *forgetNode {
	t.Helper()
	l := &forgetNode{testNode: newTestNode(t)}
	var declarations strings.Builder
	declarations.WriteString("add table ip nfproxy\nadd set ip nfproxy programmed { type ipv4_addr; }\n")
	for i := range forgetMaps {
		m := &nft.Set{Table: nft.TableID{Family: nft.IPv4, Name: "nfproxy"}, Name: fmt.Sprintf("m%d", i), Key: []nft.Type{nft.IPv4Addr},
			Data: []nft.Type{nft.IPv4Addr, nft.InetService}, Dynamic: true}
		l.maps = append(l.maps, m)
		fmt.Fprintf(&declarations, "add map ip nfproxy %s { type ipv4_addr : ipv4_addr . inet_service; flags dynamic,timeout; timeout 1h; }\n", m.Name)
	}
	l.nft(declarations.String(), "-f", "-")
	clients := make([]nft.Element, forgetClients)
	for i := range clients {
		clients[i] = nft.Element{Key: nft.Addr(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})), Data: removedEndpoint}
		if i%2 == 1 {
			clients[i].Data = keptEndpoint
		}
	}
	for _, m := range l.maps {
		l.program(nft.Change{Op: nft.Add, Object: nft.Elements{Set: m, List: clients}})
	}
	return l
}

func (l *forgetNode) program(changes ...nft.Change) {
	l.t.Helper()
	if err := l.kernel.Apply(changes, 0); err != nil {
		l.t.Fatal(err)
	}
}

// addExpiring adds clients of the removed endpoint to the first map. The first of them expires in a second and a bit.
func (l *forgetNode) addExpiring() {
	l.t.Helper()
	var b strings.Builder
	b.WriteString("add element ip nfproxy m0 { ")
	for i := range expiringClients {
		fmt.Fprintf(&b, "10.10.0.%d timeout %dms : 10.244.1.2 . 8080, ", i, (1100*time.Millisecond + time.Duration(i)*expiringStep).Milliseconds())
	}
	l.nft(b.String()+"}\n", "-f", "-")
}

// TestForgetInBulk: a removed endpoint of a thousand affinity maps with a million clients, some of which expire meanwhile, delays
// neither the rules of the same change nor those of the next, which deletes one of the maps. No client of the endpoint stays, and all others do. The same holds
// on kernels that cannot destroy elements.
func TestForgetInBulk(t *testing.T) {
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("without destroy=%t", without), func(t *testing.T) {
			l := newForgetNode(t)
			l.kernel.WithoutDestroy = without
			l.addExpiring()
			programmed := &nft.Set{Table: l.maps[0].Table, Name: "programmed", Key: []nft.Type{nft.IPv4Addr}}
			add := func(last byte) nft.Change {
				e := nft.Element{Key: nft.Addr(netip.AddrFrom4([4]byte{10, 96, 0, last}))}
				return nft.Change{Op: nft.Add, Object: nft.Elements{Set: programmed, List: []nft.Element{e}}}
			}
			changes := []nft.Change{add(1)}
			for _, m := range l.maps {
				changes = append(changes, nft.Change{Op: nft.Delete, Object: nft.DynamicElements{Set: m, Data: []nft.Value{removedEndpoint}}})
			}
			start := time.Now()
			l.program(changes...)
			first := time.Since(start)
			start = time.Now()
			last := len(l.maps) - 1
			l.program(add(2), nft.Change{Op: nft.Delete, Object: l.maps[last]})
			l.maps = l.maps[:last]
			second := time.Since(start)
			if !l.kernel.Unsettled() {
				t.Error("everything is forgotten already: the test has too few clients")
			}
			start = time.Now()
			rounds := 0
			for ; l.kernel.Unsettled(); rounds++ {
				if err := l.kernel.Settle(100 * time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			rest := time.Since(start)
			t.Logf("the change took %v, the next %v, the rest %v in %d rounds", first, second, rest, rounds)
			if slow := max(2*time.Second, rest/2); first > slow || second > slow { // on a busy machine everything takes long
				t.Errorf("forgetting delays the rules: the change took %v, the next %v", first, second)
			}
			l.checkForgotten(t)
		})
	}
}

// checkForgotten fails the test unless exactly the clients of the kept endpoint are in the maps.
func (l *forgetNode) checkForgotten(t *testing.T) {
	t.Helper()
	table := l.tables()[0]
	for _, m := range l.maps {
		for _, e := range table.Set(m.Name).Elements {
			if e.Data != keptEndpoint {
				t.Fatalf("client %s of the removed endpoint is in %s", e.Key.Addr(), m.Name)
			}
		}
		if n := len(table.Set(m.Name).Elements); n != forgetClients/2 {
			t.Fatalf("%d clients in %s, want %d", n, m.Name, forgetClients/2)
		}
	}
	if n := len(table.Set("programmed").Elements); n != 2 {
		t.Errorf("%d of 2 elements programmed", n)
	}
}

// TestForgetExpiringInBulk: clients of a removed endpoint that expire between the listing of their map and their deletion are no
// error.
func TestForgetExpiringInBulk(t *testing.T) {
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("without destroy=%t", without), func(t *testing.T) {
			l := &forgetNode{testNode: newTestNode(t)}
			l.kernel.WithoutDestroy = without
			var b strings.Builder
			b.WriteString("add table ip nfproxy\n" +
				"add map ip nfproxy m { type ipv4_addr : ipv4_addr . inet_service; size 65536; flags dynamic,timeout; timeout 1h; }\n" +
				"add element ip nfproxy m { ")
			const clients = 20_000 // ten of them expire in each millisecond
			for i := range clients {
				fmt.Fprintf(&b, "10.9.%d.%d timeout %dms : 10.244.1.2 . 8080, ", i>>8, i&0xff, 10+(clients-i)/10) // the last by key first
			}
			b.WriteString("10.10.0.1 : 10.244.1.3 . 8080 }\n")
			l.nft(b.String(), "-f", "-")
			m := &nft.Set{Table: nft.TableID{Family: nft.IPv4, Name: "nfproxy"}, Name: "m", Key: []nft.Type{nft.IPv4Addr},
				Data: []nft.Type{nft.IPv4Addr, nft.InetService}, Dynamic: true}
			l.program(nft.Change{Op: nft.Delete, Object: nft.DynamicElements{Set: m, Data: []nft.Value{removedEndpoint}}})
			for l.kernel.Unsettled() {
				if err := l.kernel.Settle(100 * time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			if left := l.tables()[0].Set("m").Elements; len(left) != 1 || left[0].Data != keptEndpoint {
				t.Errorf("%d clients in the map, want that of the kept endpoint", len(left))
			}
		})
	}
}

// TestForgetWithRules: the transaction that removes an endpoint also forgets its clients, if these are few, so that no client is sent
// to it afterwards.
func TestForgetWithRules(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	endpoints := s.connectAll(t, s.frontends()[0])
	before := s.generation()
	s.apply(render.Update{Services: []render.Service{s.without(endpoints[0])}})
	if n := s.generation() - before; n != 1 {
		t.Errorf("the removal of an endpoint took %d transactions, want 1", n)
	}
	if s.kernel.Unsettled() {
		t.Error("Apply leaves changes of the maps to Settle")
	}
}

func (l *testNode) generation() uint32 {
	l.t.Helper()
	generation, err := l.kernel.Generation()
	if err != nil {
		l.t.Fatal(err)
	}
	return generation
}

// TestForgetInReplacedMap: a start that replaces the affinity map, because another number of clients is configured, and finds an
// endpoint removed succeeds, although the clients to forget go with the old map.
func TestForgetInReplacedMap(t *testing.T) {
	s := newAffinityNode(t, nft.IPv4, nft.TCP)
	endpoints := s.connectAll(t, s.frontends()[0])
	s.facts.AffinityClients = 2 * affinityClientCount
	s.restart(s.without(endpoints[0]))
	for i, endpoint := range s.connectAll(t, s.frontends()[0]) {
		if endpoint == endpoints[0] {
			t.Errorf("client %d reaches %s, which was removed", i, endpoint)
		}
	}
}
