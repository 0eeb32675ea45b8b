package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
	"nfproxy/sandbox"
)

// limitedNode is a node with a server, two clients and a Service with limits.
type limitedNode struct {
	*testNode
	clients  [2]*sandbox.Pod
	frontend string
	service  render.Service
}

func newLimitedNode(t *testing.T, f nft.Family, p nft.Protocol, limits render.Limits) *limitedNode {
	t.Helper()
	l := &limitedNode{testNode: newTestNode(t).addNetwork(), frontend: "10.96.0.1:80"}
	server, clients := "10.244.1.2", [2]string{"10.244.9.8", "10.244.9.9"}
	if f == nft.IPv6 {
		server, clients, l.frontend = "fd00:10:244:1::2", [2]string{"fd00:10:244:9::8", "fd00:10:244:9::9"}, "[fd00:10:96::1]:80"
	}
	l.pod("server", 8080, server)
	for i, addr := range clients {
		l.clients[i] = l.pod(fmt.Sprint("client", i), 0, addr)
	}
	l.service = service("limited", p, l.frontend, netip.AddrPortFrom(netip.MustParseAddr(server), 8080).String())
	l.service.Limits = limits
	l.restart(l.service)
	return l
}

// described returns what the tables say of a frontend.
func (l *limitedNode) described(frontend string) report.Frontend {
	l.t.Helper()
	at := netip.MustParseAddrPort(frontend)
	for _, s := range report.Describe(l.tables()).Services {
		for _, f := range s.Frontends {
			if f.Address == at.Addr() && f.Port == at.Port() {
				return f
			}
		}
	}
	l.t.Fatalf("no frontend %s", frontend)
	return report.Frontend{}
}

// wantTally fails the test unless so many connections to a frontend were within its limits and above them.
func (l *limitedNode) wantTally(frontend string, within, above uint64) {
	l.t.Helper()
	f := l.described(frontend)
	want := report.Tally{Served: within, OverLimit: above}
	if f.Limits.Over == "drop" {
		want.Dropped = above
	} else {
		want.Refused = above
	}
	if got := f.Tally(); got != want {
		l.t.Errorf("%s, %s: %+v, want %+v", frontend, f.Limits, got, want)
	}
}

// hourly returns a limit that admits a burst and, during a test, nothing more.
func hourly(burst uint32) nft.Limit { return nft.Limit{Packets: 1, Per: time.Hour, Burst: burst} }

// TestLimits: of the connections at once, exactly as many as the burst are served; the others are refused or dropped, and counted.
// Each client has a burst of its own, and of the connections within it, those that exceed the limit of all clients end as well.
func TestLimits(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, drop := range []bool{false, true} {
			for _, c := range []struct {
				name             string
				rate, clientRate nft.Limit
				within           uint64 // of 10 connections of the first client and then 10 of the second
			}{
				{"all clients", hourly(12), nft.Limit{}, 12},
				{"each client", nft.Limit{}, hourly(7), 14},
				{"both", hourly(9), hourly(7), 9},
				{"both, each client less", hourly(15), hourly(7), 14},
			} {
				t.Run(fmt.Sprint(f, " ", c.name, " drop ", drop), func(t *testing.T) {
					l := newLimitedNode(t, f, nft.UDP, render.Limits{Rate: c.rate, ClientRate: c.clientRate, Drop: drop})
					for _, client := range l.clients {
						sendFlows(t, client.Namespace, netip.MustParseAddrPort(l.frontend), 10)
					}
					l.wantTally(l.frontend, c.within, 20-c.within)
					if again := l.reconcile(); len(again) > 0 {
						t.Errorf("the tables as they were read differ from the desired ones: %v", again)
					}
				})
			}
		}
	}
}

// TestLargestLimits: the kernel accepts the largest limits that an annotation can have.
func TestLargestLimits(t *testing.T) {
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour} {
		for _, packets := range []uint64{1, render.MaxConnectionRate} {
			limit := nft.Limit{Packets: packets, Per: per, Burst: render.MaxConnectionRate}
			l := newLimitedNode(t, nft.IPv4, nft.UDP, render.Limits{Rate: limit, ClientRate: limit})
			sendFlows(t, l.clients[0].Namespace, netip.MustParseAddrPort(l.frontend), 10)
			l.wantTally(l.frontend, 10, 0)
		}
	}
}

// TestLimitedConnections: a connection within the limits is served, the next one is reset or meets silence.
func TestLimitedConnections(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, drop := range []bool{false, true} {
			t.Run(fmt.Sprint(f, " drop ", drop), func(t *testing.T) {
				l := newLimitedNode(t, f, nft.TCP, render.Limits{Rate: hourly(2), Drop: drop})
				for i := range 3 {
					timeout := connectTimeout
					if i == 2 && drop {
						timeout = unallocatedTimeout
					}
					_, err := connect(l.clients[0].Namespace, nft.TCP, "", l.frontend, timeout)
					refused := errors.Is(err, syscall.ECONNREFUSED)
					switch {
					case i < 2 && err != nil:
						t.Errorf("connection %d: %v", i, err)
					case i == 2 && (drop && !isTimeout(err) || !drop && !refused):
						t.Errorf("connection %d: %v", i, err)
					}
				}
			})
		}
	}
}

// TestLimitedFrontends: each frontend has its own limit. Sources that are not admitted use nothing of it. Session affinity and policy
// Local apply to the connections within it.
func TestLimitedFrontends(t *testing.T) {
	l := newLimitedNode(t, nft.IPv4, nft.UDP, render.Limits{Rate: hourly(3), ClientRate: hourly(2)})
	s := l.service
	s.LoadBalancerIPs, s.SourceRanges = []netip.Addr{netip.MustParseAddr("203.0.113.1")}, prefixes("10.244.9.9/32")
	s.ExternalIPs, s.ExternalLocal, s.Affinity = []netip.Addr{netip.MustParseAddr("198.51.100.1")}, true, time.Hour
	l.restart(s)
	for _, frontend := range []string{l.frontend, "203.0.113.1:80", "198.51.100.1:80"} {
		for _, client := range l.clients {
			sendFlows(t, client.Namespace, netip.MustParseAddrPort(frontend), 4)
		}
	}
	l.wantTally(l.frontend, 3, 5)
	l.wantTally("198.51.100.1:80", 3, 5)
	f := l.described("203.0.113.1:80")
	if got, want := f.Tally(), (report.Tally{Served: 2, Refused: 2, Dropped: 4, OverLimit: 2}); got != want {
		t.Errorf("with source ranges: %+v, want %+v", got, want)
	}
	if f.AffinitySeconds != 3600 || f.LocalEndpoints == nil || f.Action != "balance" {
		t.Errorf("with limits the frontend is described as %+v", f)
	}
}

// TestLimitRate: over several seconds, not more connections pass than the burst and the rate admit in the time that they took, and as
// many as a bucket that is filled at the rate admits at the times at which they were sent.
func TestLimitRate(t *testing.T) {
	for _, each := range []bool{false, true} {
		t.Run(fmt.Sprint("each client ", each), func(t *testing.T) {
			const flows, rate, burst = 600, 50, 25
			limit := nft.Limit{Packets: rate, Per: time.Second, Burst: burst}
			limits := render.Limits{Rate: limit}
			if each {
				limits = render.Limits{ClientRate: limit}
			}
			l := newLimitedNode(t, nft.IPv4, nft.UDP, limits)
			to := netip.MustParseAddrPort(l.frontend)
			before, after := make([]time.Time, flows), make([]time.Time, flows)
			err := l.clients[0].Do(func() error {
				for i := range flows {
					time.Sleep(5 * time.Millisecond)
					before[i] = time.Now()
					err := sendFlow(uint16(10_000+i), to)
					after[i] = time.Now()
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			tally := l.described(l.frontend).Tally()
			if tally.Served+tally.OverLimit != flows {
				t.Errorf("%+v, of %d connections", tally, flows)
			}
			took := after[flows-1].Sub(before[0]).Seconds()
			if most := burst + rate*took + 1; float64(tally.Served) > most {
				t.Errorf("%d connections were served in %.3f s, more than %.1f", tally.Served, took, most)
			}
			// The kernel rounds, so that the bucket can be one token behind.
			if least := admitted(before, after, rate, burst) - 2; tally.Served < uint64(least) {
				t.Errorf("%d connections were served in %.3f s, fewer than %d", tally.Served, took, least)
			}
			t.Logf("%d of %d connections in %.3f s", tally.Served, flows, took)
		})
	}
}

// admitted returns how many packets a token bucket admits at least if each of them is evaluated at some moment between two times. The
// bucket is filled at least while no packet can be evaluated: from the second time of one packet to the first time of the next.
func admitted(before, after []time.Time, rate, burst float64) (n int) {
	tokens := burst
	for i := range before {
		if i > 0 {
			tokens = min(burst, tokens+rate*before[i].Sub(after[i-1]).Seconds())
		}
		if tokens >= 1 {
			tokens, n = tokens-1, n+1
		}
	}
	return n
}

// TestLimitsChange: a changed limit is applied with a full bucket, and an endpoint that comes leaves the bucket as it is. Without the
// annotation, the frontend has no limit. Objects for limits exist from the first Service with limits on, and a restart removes those
// that are not used.
func TestLimitsChange(t *testing.T) {
	l := newLimitedNode(t, nft.IPv4, nft.UDP, render.Limits{Rate: hourly(3), ClientRate: hourly(50)})
	to := netip.MustParseAddrPort(l.frontend)
	port := 10_000
	send := func(n int) {
		t.Helper()
		err := l.clients[0].Do(func() error {
			for range n {
				if err := sendFlow(uint16(port), to); err != nil {
					return err
				}
				port++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	send(5)
	l.wantTally(l.frontend, 3, 2)
	s := l.service
	change := func() { l.apply(render.Update{Services: []render.Service{s}}) }
	s.Ports = slices.Clone(s.Ports)
	s.Ports[0].Endpoints = append(slices.Clone(s.Ports[0].Endpoints), endpoint("10.244.1.3:8080"))
	change()
	send(5)
	l.wantTally(l.frontend, 3, 7)
	s.Limits.Rate = hourly(4)
	change()
	send(5)
	l.wantTally(l.frontend, 7, 8)

	s.Limits = render.Limits{}
	change()
	send(5)
	if f := l.described(l.frontend); f.Limits != nil {
		t.Errorf("without limits the frontend is described as %+v", f)
	}
	if got := l.tables()[0]; got.Set("rates") == nil || got.Chain("client-limit-1-hour-50") == nil {
		t.Error("objects for limits are removed at once")
	}
	l.reconcile()
	for _, name := range []string{"rates", "within-limit", "over-limit", "clients-1-hour-50"} {
		if l.tables()[0].Set(name) != nil {
			t.Errorf("set %s stays after a restart, although no Service has limits", name)
		}
	}
	if names := l.nft("", "list", "chains"); strings.Contains(names, "limit") {
		t.Errorf("chains for limits stay after a restart: %s", names)
	}
}

// TestFullClients: if the set of clients is full, further clients are served without a limit, and those in it keep theirs.
func TestFullClients(t *testing.T) {
	l := newLimitedNode(t, nft.IPv4, nft.UDP, render.Limits{ClientRate: hourly(1)})
	to := netip.MustParseAddrPort(l.frontend)
	sendFlows(t, l.clients[0].Namespace, to, 2)
	l.wantTally(l.frontend, 1, 1)
	set := l.tables()[0].Set("clients-1-hour-1")
	fill := nft.Elements{Set: set}
	for i := range set.Size - 1 {
		addr := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		fill.List = append(fill.List, nft.Element{Key: nft.Addr(addr) + (render.Frontend{AddrPort: to, Protocol: nft.UDP}).Key()})
	}
	if err := l.kernel.Apply([]nft.Change{{Op: nft.Add, Object: fill}}, 0); err != nil {
		t.Fatal(err)
	}
	sendFlows(t, l.clients[1].Namespace, to, 5)
	l.wantTally(l.frontend, 6, 1)
	if err := l.clients[0].Do(func() error { return errors.Join(sendFlow(20_001, to), sendFlow(20_002, to)) }); err != nil {
		t.Fatal(err)
	}
	l.wantTally(l.frontend, 6, 3)
}

// TestManyChangedLimits: a Service whose limit for each client changes again and again leaves few objects in the kernel, and each limit is
// applied.
func TestManyChangedLimits(t *testing.T) {
	l := newLimitedNode(t, nft.IPv4, nft.UDP, render.Limits{ClientRate: hourly(1)})
	s := l.service
	for i := range 300 {
		s.Limits.ClientRate = hourly(uint32(2 + i))
		l.apply(render.Update{Services: []render.Service{s}})
	}
	s.Limits.ClientRate = hourly(3)
	l.apply(render.Update{Services: []render.Service{s}})
	sendFlows(t, l.clients[0].Namespace, netip.MustParseAddrPort(l.frontend), 10)
	l.wantTally(l.frontend, 3, 7)
	sets := 0
	for _, have := range l.tables()[0].Sets {
		if strings.HasPrefix(have.Name, "clients-") {
			sets++
		}
	}
	if sets > 100 {
		t.Errorf("%d sets of clients are left", sets)
	}
}
