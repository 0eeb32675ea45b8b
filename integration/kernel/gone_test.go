package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// TestGoneEndpointResets: a connection to a Pod that was killed without FIN is silent until its entry is deleted. What answers its
// next packet then depends on the frontend.
func TestGoneEndpointResets(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		outside := map[bool]string{true: "198.51.100.7", false: "2001:db8:99::7"}[netip.MustParseAddr(addrs.a).Is4()]
		left := []string{at(addrs.b, 8080)}
		for _, c := range []struct {
			name string
			from string // the address of the client's Pod, empty for the node itself
			to   string
			set  func(*render.Service)
			then []string // the endpoints after the Pod is gone
			want end
		}{
			{"cluster IP, another endpoint", addrs.client, at(addrs.cluster, 80), nil, left, connReset},
			{"cluster IP, no endpoint", addrs.client, at(addrs.cluster, 80), nil, nil, connReset},
			{"cluster IP, no ready endpoint", addrs.client, at(addrs.cluster, 80), nil, []string{left[0] + " unready"}, connReset},
			{"cluster IP, from the node", "", at(addrs.cluster, 80), nil, left, connReset},
			{"cluster IP, from the node, no endpoint", "", at(addrs.cluster, 80), nil, nil, connReset},
			{"cluster IP, masqueraded", outside, at(addrs.cluster, 80), nil, left, connReset},
			{"external IP", outside, at(addrs.balancer, 80), nil, left, connReset},
			{"external IP, no endpoint", outside, at(addrs.balancer, 80), nil, nil, connReset},
			{"node port", outside, at(addrs.node, 30080), nil, left, connReset},
			{"node port, no endpoint", outside, at(addrs.node, 30080), nil, nil, connReset},
			{"node port, policy Local", outside, at(addrs.node, 30080), policyLocal, left, connReset},
			{"node port, policy Local, no local endpoint", outside, at(addrs.node, 30080), policyLocal, []string{left[0] + " remote"}, connSilent},
			{"session affinity", addrs.client, at(addrs.cluster, 80), func(s *render.Service) { s.Affinity = time.Hour }, left, connReset},
		} {
			t.Run(c.name, func(t *testing.T) { testGoneEndpoint(t, addrs, c.from, c.to, c.set, c.then, c.want) })
		}
	})
}

// goneAddrs are the addresses of a client, two endpoints, the node, and a Service.
type goneAddrs struct{ client, a, b, node, cluster, balancer string }

// forGoneAddrs runs a test for each family.
func forGoneAddrs(t *testing.T, test func(*testing.T, goneAddrs)) {
	for family, a := range flowAddrs {
		cluster := netip.MustParseAddrPort(a.frontend).Addr().String()
		t.Run(family.String(), func(t *testing.T) { test(t, goneAddrs{a.client, a.a, a.b, a.node, cluster, balancerAddrs[family]}) })
	}
}

func policyLocal(s *render.Service) { s.ExternalLocal = true }

// service returns the Service of the tests.
func (g goneAddrs) service(set func(*render.Service), endpoints ...string) render.Service {
	s := service("web", nft.TCP, at(g.cluster, 80), endpoints...)
	s.ExternalIPs, s.Ports[0].NodePort = []netip.Addr{netip.MustParseAddr(g.balancer)}, 30080
	if set != nil {
		set(&s)
	}
	return s
}

func testGoneEndpoint(t *testing.T, addrs goneAddrs, from, to string, set func(*render.Service), then []string, want end) {
	l := newGoneNode(t)
	a := l.echoPod("a", 8080, addrs.a)
	l.echoPod("b", 8080, addrs.b)
	client := l.node
	if from != "" {
		client = l.pod("client", 0, from).Namespace
	}
	l.program(addrs.service(set, at(addrs.a, 8080)))
	c := l.open(client, to)
	l.unplug(a)
	l.program(addrs.service(set, then...))
	if deleted := l.pass(goneDelay - 1); deleted != nil {
		t.Errorf("within the delay: deleted %v", deleted)
	}
	c.expect(connSilent)
	l.oneFlow(l.pass(1), at(addrs.a, 8080))
	c.expect(want)
}

// TestGoneEndpointWithoutLoose: with nf_conntrack_tcp_loose=0 a packet in the middle of a connection begins no conntrack entry and is
// not translated. Only at its own addresses the node answers, so that the daemon deletes no entry.
func TestGoneEndpointWithoutLoose(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		for _, c := range []struct {
			name, from, to string
			then           []string
			want           end
		}{
			{"cluster IP", addrs.client, at(addrs.cluster, 80), []string{at(addrs.b, 8080)}, connSilent},
			{"cluster IP, no endpoint", addrs.client, at(addrs.cluster, 80), nil, connSilent},
			{"cluster IP, from the node", "", at(addrs.cluster, 80), nil, connSilent},
			{"external IP", addrs.client, at(addrs.balancer, 80), nil, connSilent},
			{"node port", addrs.client, at(addrs.node, 30080), nil, connReset},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := newGoneNode(t)
				l.setLoose("0")
				a := l.echoPod("a", 8080, addrs.a)
				l.echoPod("b", 8080, addrs.b)
				client := l.node
				if c.from != "" {
					client = l.pod("client", 0, c.from).Namespace
				}
				l.program(addrs.service(nil, at(addrs.a, 8080)))
				conn := l.open(client, c.to)
				l.unplug(a)
				l.program(addrs.service(nil, c.then...))
				l.oneFlow(l.pass(goneDelay), at(addrs.a, 8080))
				conn.expect(c.want)
			})
		}
	})
}

// TestGoneEndpointKilled: a Pod is killed without FIN, with its namespace and its link. Its connections from Pods are silent until the
// delay has passed and then meet a reset, and new connections reach the other endpoint, with session affinity too. A connection that
// is being opened reaches the other endpoint.
func TestGoneEndpointKilled(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		l := newGoneNode(t)
		a := l.echoPod("a", 8080, addrs.a)
		l.echoPod("b", 8080, addrs.b)
		client := l.pod("client", 0, addrs.client)
		sticky := func(s *render.Service) { s.Affinity = time.Hour }
		l.program(addrs.service(sticky, at(addrs.a, 8080)))
		c := l.open(client.Namespace, at(addrs.cluster, 80))
		l.kill(a)
		opened := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*connectTimeout)
			defer cancel()
			c, err := client.Dial(ctx, "tcp", "", at(addrs.cluster, 80))
			if err == nil {
				c.Close()
			}
			opened <- err
		}()
		for start := time.Now(); len(l.tcpFlows()) < 2 && time.Since(start) < connectTimeout; { // until the first packet has gone to the Pod
			time.Sleep(10 * time.Millisecond)
		}
		l.program(addrs.service(sticky, at(addrs.b, 8080)))
		c.expect(connSilent)
		if deleted := l.pass(goneDelay); len(deleted) != 2 {
			t.Errorf("deleted %v, want both connections", deleted)
		}
		c.expect(connReset)
		l.open(client.Namespace, at(addrs.cluster, 80))
		if err := <-opened; err != nil {
			t.Errorf("the connection that was being opened: %v", err)
		}
		if deleted := l.pass(10 * goneDelay); deleted != nil {
			t.Errorf("later: deleted %v", deleted)
		}
	})
}

// TestGoneEndpointAffinity: the packet that meets a reset counts as a connection of the endpoint that resets it, and with session
// affinity the client's next connections go to that endpoint.
func TestGoneEndpointAffinity(t *testing.T) {
	for family, addrs := range flowAddrs {
		t.Run(family.String(), func(t *testing.T) {
			l := newGoneNode(t)
			l.facts.Counters = render.CountEndpoints
			l.ruleset = render.NewRuleset(l.facts)
			l.reconcile()
			a := l.echoPod("a", 8080, addrs.a)
			l.pod("b", 8080, addrs.b)
			l.pod("c", 8080, addrs.c)
			client := l.pod("client", 0, addrs.client).Namespace
			frontend := at(netip.MustParseAddrPort(addrs.frontend).Addr().String(), 80)
			sticky := func(endpoints ...string) render.Service {
				s := service("web", nft.TCP, frontend, endpoints...)
				s.Affinity = time.Hour
				return s
			}
			l.program(sticky(at(addrs.a, 8080)))
			c := l.open(client, frontend)
			l.unplug(a)
			l.program(sticky(at(addrs.b, 8080), at(addrs.c, 8080)))
			l.pass(goneDelay)
			c.expect(connReset)
			f := report.Describe(l.tables()).Services[0].Frontends[0]
			var resetBy string
			for _, e := range f.Endpoints {
				if *e.Connections > 0 {
					resetBy = e.String()
				}
			}
			if *f.Connections != 2 || resetBy == "" {
				t.Fatalf("the frontend counts %d connections, want 2; the endpoint that counts one is %q", *f.Connections, resetBy)
			}
			for range 5 {
				if got, err := connect(client, nft.TCP, "", frontend, connectTimeout); err != nil || got.endpoint.String() != resetBy {
					t.Errorf("the next connection reaches %s (%v), want %s", got.endpoint, err, resetBy)
				}
			}
		})
	}
}

// TestGoneEndpointAlive: a Pod that is alive gets a reset too when it sends on a connection whose entry was deleted.
func TestGoneEndpointAlive(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		l := newGoneNode(t)
		a := l.pod("a", 0, addrs.a)
		listener, err := a.Listen("tcp", at(addrs.a, 8080))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		l.program(addrs.service(nil, at(addrs.a, 8080)))
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		client, err := l.pod("client", 0, addrs.client).Dial(ctx, "tcp", "", at(addrs.cluster, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		l.program(addrs.service(nil))
		l.oneFlow(l.pass(goneDelay), at(addrs.a, 8080))
		longConnection{t, accepted, bufio.NewReader(accepted)}.expect(connReset)
	})
}

// TestGoneEndpointMasqueraded: the kernel itself forgets masqueraded connections to a Pod of the node when the Pod's link goes.
func TestGoneEndpointMasqueraded(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		l := newGoneNode(t)
		a := l.echoPod("a", 8080, addrs.a)
		l.echoPod("b", 8080, addrs.b)
		l.program(addrs.service(nil, at(addrs.a, 8080)))
		c := l.open(l.pod("client", 0, addrs.client).Namespace, at(addrs.balancer, 80))
		l.program(addrs.service(nil, at(addrs.b, 8080)))
		l.kill(a)
		c.expect(connReset)
		if deleted := l.pass(goneDelay); deleted != nil {
			t.Errorf("deleted %v", deleted)
		}
	})
}

// TestGoneEndpointDrains: a connection to a terminating endpoint continues for as long as the endpoint is in a slice, whether it serves
// or not. When the endpoint has left, the connection continues for the delay.
func TestGoneEndpointDrains(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		l := newGoneNode(t)
		l.echoPod("a", 8080, addrs.a)
		l.echoPod("b", 8080, addrs.b)
		l.program(addrs.service(nil, at(addrs.a, 8080)))
		c := l.open(l.pod("client", 0, addrs.client).Namespace, at(addrs.cluster, 80))
		for _, serving := range []bool{true, false} {
			s := addrs.service(nil, at(addrs.a, 8080), at(addrs.b, 8080))
			e := &s.Ports[0].Endpoints[0]
			e.Ready, e.Serving, e.Terminating = false, serving, true
			l.program(s)
			if deleted := l.pass(10 * goneDelay); deleted != nil {
				t.Errorf("terminating, serving %v: deleted %v", serving, deleted)
			}
			c.works()
		}
		l.program(addrs.service(nil, at(addrs.b, 8080)))
		if deleted := l.pass(goneDelay - 1); deleted != nil {
			t.Errorf("within the delay: deleted %v", deleted)
		}
		c.works()
		l.oneFlow(l.pass(1), at(addrs.a, 8080))
		c.expect(connReset)
	})
}

// TestGoneEndpointReturns: a connection to an endpoint that comes back within the delay continues, and the delay begins again when it
// goes again.
func TestGoneEndpointReturns(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		l := newGoneNode(t)
		l.echoPod("a", 8080, addrs.a)
		l.echoPod("b", 8080, addrs.b)
		both := addrs.service(nil, at(addrs.a, 8080), at(addrs.b, 8080))
		l.program(addrs.service(nil, at(addrs.a, 8080)))
		c := l.open(l.pod("client", 0, addrs.client).Namespace, at(addrs.cluster, 80))
		for range 3 {
			l.program(addrs.service(nil, at(addrs.b, 8080)))
			if deleted := l.pass(goneDelay - 1); deleted != nil {
				t.Errorf("within the delay: deleted %v", deleted)
			}
			l.program(both)
			if deleted := l.pass(10 * goneDelay); deleted != nil {
				t.Errorf("the endpoint came back: deleted %v", deleted)
			}
			c.works()
		}
	})
}

// TestGoneEndpointRestart: after a restart within the delay, or after the endpoint left while no daemon ran, its connections stay as they
// are. Endpoints that leave later are gone after the delay.
func TestGoneEndpointRestart(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		l := newGoneNode(t)
		l.echoPod("a", 8080, addrs.a)
		l.echoPod("b", 8080, addrs.b)
		client := l.pod("client", 0, addrs.client).Namespace
		l.program(addrs.service(nil, at(addrs.a, 8080)))
		first := l.open(client, at(addrs.cluster, 80))
		l.program(addrs.service(nil, at(addrs.b, 8080)))
		l.pass(goneDelay / 2)
		l.gone, l.ruleset = render.NewGoneEndpoints(goneDelay), render.NewRuleset(l.facts)
		l.reconcile()
		l.program(addrs.service(nil, at(addrs.b, 8080)))
		if deleted := l.pass(10 * goneDelay); deleted != nil {
			t.Errorf("after the restart: deleted %v", deleted)
		}
		first.works()
		second := l.open(client, at(addrs.cluster, 80))
		l.program(addrs.service(nil))
		l.oneFlow(l.pass(goneDelay), at(addrs.b, 8080))
		second.expect(connReset)
		first.works()
	})
}

// TestGoneEndpointOthers: of all connections to the address and port of an endpoint that is gone, only those through a Service lose their
// entries: not those to the Pod itself, not those that another program translates, not those through a Service that was removed, and
// none while another Service has the endpoint. The connection of another endpoint and closed ones stay, too.
func TestGoneEndpointOthers(t *testing.T) {
	forGoneAddrs(t, func(t *testing.T, addrs goneAddrs) {
		l := newGoneNode(t)
		l.echoPod("a", 8080, addrs.a)
		l.echoPod("b", 8080, addrs.b)
		client := l.pod("client", 0, addrs.client).Namespace
		family := render.Family(netip.MustParseAddr(addrs.a))
		next := func(addr string) string { return netip.MustParseAddr(addr).Next().String() }
		foreign := next(addrs.balancer) // a frontend of another program
		l.nft(fmt.Sprintf("table %[1]s other { chain before { type nat hook prerouting priority -110; %[1]s daddr %[2]s tcp dport 80 dnat to %[3]s; }; }",
			family, foreign, at(addrs.a, 8080)), "-f", "-")
		service := func(name, cluster string, endpoints ...string) render.Service {
			return service(name, nft.TCP, at(cluster, 80), endpoints...)
		}
		removed, shared, other := next(addrs.cluster), next(next(addrs.cluster)), next(next(next(addrs.cluster)))
		l.program(addrs.service(nil, at(addrs.a, 8080)), service("removed", removed, at(addrs.a, 8080)),
			service("shared", shared, at(addrs.a, 8080)), service("other", other, at(addrs.b, 8080)))
		through := l.open(client, at(addrs.cluster, 80))
		l.open(client, at(addrs.cluster, 80)).Close()
		var stay []longConnection
		for _, to := range []string{at(addrs.a, 8080), at(foreign, 80), at(removed, 80), at(other, 80)} {
			stay = append(stay, l.open(client, to))
		}
		expectStay := func() {
			t.Helper()
			for _, c := range stay {
				c.works()
			}
		}

		l.program(addrs.service(nil))
		if deleted := l.pass(10 * goneDelay); deleted != nil {
			t.Errorf("another Service has the endpoint: deleted %v", deleted)
		}
		expectStay()
		through.works()
		u := render.Update{Node: l.facts, Services: []render.Service{service("shared", shared)},
			Removed: []render.ServiceName{{Namespace: "test", Name: "removed"}}}
		l.apply(u)
		l.gone.Take(u)
		l.gone.Programmed(l.now)
		l.oneFlow(l.pass(goneDelay), at(addrs.a, 8080))
		expectStay()
		through.expect(connReset)
	})
}
