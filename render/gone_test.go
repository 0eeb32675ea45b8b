package render

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// goneTest is a GoneEndpoints with a delay of a minute, on a clock that the test advances.
type goneTest struct {
	*GoneEndpoints
	t   *testing.T
	now time.Time
}

func newGoneTest(t *testing.T, services ...Service) *goneTest {
	g := &goneTest{NewGoneEndpoints(time.Minute), t, time.Unix(1000, 0)}
	g.program(Update{Services: services})
	return g
}

// program applies an Update that the kernel gets at once.
func (g *goneTest) program(u Update) {
	u.Node = flowNode()
	g.Take(u)
	g.Programmed(g.now)
}

// cleanUp lets time pass and returns the filters of the cleanup that is due then, nil for none.
func (g *goneTest) cleanUp(d time.Duration) (filters []string) {
	g.now = g.now.Add(d)
	if c, ok := g.Begin(g.now); ok {
		for _, f := range c.Filters {
			filters = append(filters, f.String())
		}
		g.CleanedUp(c)
	}
	return filters
}

// judge lets time pass and judges a flow in the cleanup that is due then.
func (g *goneTest) judge(d time.Duration, f conntrack.Flow) (bool, Reason) {
	g.t.Helper()
	g.now = g.now.Add(d)
	c, ok := g.Begin(g.now)
	if !ok {
		g.t.Fatal("no cleanup is due")
	}
	return g.Judge(c, f)
}

// tcpServiceWith returns a Service with one cluster IP and one TCP port.
func tcpServiceWith(name string, cluster string, endpoints ...string) Service {
	return Service{ServiceName: ServiceName{"test", name}, ClusterIPs: addrs(cluster),
		Ports: []Port{{Name: "main", Protocol: nft.TCP, Port: 80, NodePort: 0, Endpoints: flowEndpoints(endpoints...)}}}
}

const goneEndpoint, otherEndpoint = "10.244.1.2:8080", "10.244.1.3:8080"

// TestJudgeGone: each case changes a Service, and a minute later judges a flow that began before. Another endpoint has gone, so that a
// cleanup is due.
func TestJudgeGone(t *testing.T) {
	web := func(endpoints ...string) Service {
		s := tcpServiceWith("web", "10.96.0.1", endpoints...)
		s.ClusterIPs = addrs("10.96.0.1", "fd00:96::1")
		s.ExternalIPs, s.LoadBalancerIPs, s.Ports[0].NodePort = addrs("203.0.113.1"), addrs("203.0.113.2"), 30080
		return s
	}
	const endpoint6 = "[fd00:244::2]:8080"
	first := web(goneEndpoint, otherEndpoint, endpoint6)
	to := func(frontend string) conntrack.Flow { return flow(nft.TCP, frontend, goneEndpoint) }
	update := func(services ...Service) Update { return Update{Services: services} }
	left := update(web(otherEndpoint))
	closed := to("10.96.0.1:80")
	closed.Closed = true
	unanswered := to("10.96.0.1:80")
	unanswered.Status = 0
	inZone := to("10.96.0.1:80")
	inZone.Zone = 7
	unready := web(goneEndpoint, otherEndpoint, endpoint6)
	for i := range unready.Ports[0].Endpoints {
		e := &unready.Ports[0].Endpoints[i]
		e.Ready, e.Serving, e.Terminating = false, false, true
	}
	udp := web(otherEndpoint)
	udp.Ports = append(udp.Ports, Port{Name: "udp", Protocol: nft.UDP, Port: 80, Endpoints: flowEndpoints(goneEndpoint)})
	otherPort := web(otherEndpoint)
	otherPort.Ports[0].Port = 81
	oversized := Unported(web(goneEndpoint))
	for _, c := range []struct {
		name  string
		then  Update
		flow  conntrack.Flow
		stale bool
		why   Reason
	}{
		{"cluster IP", left, to("10.96.0.1:80"), true, FlowGone},
		{"cluster IP, IPv6", left, flow(nft.TCP, "[fd00:96::1]:80", endpoint6), true, FlowGone},
		{"external IP", left, to("203.0.113.1:80"), true, FlowGone},
		{"load balancer", left, to("203.0.113.2:80"), true, FlowGone},
		{"node port", left, to("192.0.2.10:30080"), true, FlowGone},
		{"no answer yet", left, unanswered, true, FlowGone},
		{"in a conntrack zone", left, inZone, true, FlowGone},
		{"no endpoint left", update(web()), to("10.96.0.1:80"), true, FlowGone},
		{"through another Service with the frontend's endpoints", left, flow(nft.TCP, "10.96.0.9:80", goneEndpoint), true, FlowGone},

		{"the endpoint of another flow", left, flow(nft.TCP, "10.96.0.1:80", otherEndpoint), false, FlowNotGone},
		{"terminating", update(unready), to("10.96.0.1:80"), false, FlowNotGone},
		{"another Service has the endpoint", update(web(otherEndpoint), tcpServiceWith("more", "10.96.0.2", goneEndpoint)), to("10.96.0.1:80"), false, FlowNotGone},
		{"the endpoint moves to another Service that is removed first", Update{Removed: []ServiceName{first.ServiceName},
			Services: []Service{tcpServiceWith("more", "10.96.0.2", goneEndpoint)}}, to("10.96.0.1:80"), false, FlowNotGone},
		{"the Service is too large", update(oversized), to("10.96.0.1:80"), false, FlowNotGone},
		{"never an endpoint", left, flow(nft.TCP, "10.96.0.1:80", "10.244.1.99:8080"), false, FlowNotGone},
		{"another port of the Pod", left, flow(nft.TCP, "10.96.0.1:80", "10.244.1.2:8081"), false, FlowNotGone},
		{"only a UDP port has the endpoint", update(udp), to("10.96.0.1:80"), true, FlowGone},
		{"to the endpoint itself", left, to(goneEndpoint), false, FlowDirect},
		{"translated by another program", left, to("192.0.2.10:8080"), false, FlowForeign},
		{"the Service is removed", Update{Removed: []ServiceName{first.ServiceName}}, to("10.96.0.1:80"), false, FlowForeign},
		{"the port is removed", update(otherPort), to("10.96.0.1:80"), false, FlowForeign},
		{"UDP", left, flow(nft.UDP, "10.96.0.1:80", goneEndpoint), false, FlowProtocol},
		{"closed", left, closed, false, FlowClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoneTest(t, first, tcpServiceWith("second", "10.96.0.9", otherEndpoint), tcpServiceWith("third", "10.96.0.3", "10.244.1.9:1"))
			g.program(Update{Services: []Service{tcpServiceWith("third", "10.96.0.3")}})
			g.program(c.then)
			if stale, why := g.judge(time.Minute, c.flow); stale != c.stale || why != c.why {
				t.Errorf("%v, %q, want %v, %q", stale, why, c.stale, c.why)
			}
		})
	}
}

// TestGoneDelay: an endpoint counts as gone for as long as it has been in no slice since the last commit, and not at all once it is back.
func TestGoneDelay(t *testing.T) {
	with, without := tcpServiceWith("web", "10.96.0.1", goneEndpoint), tcpServiceWith("web", "10.96.0.1")
	want := []string{"ip tcp answered by " + goneEndpoint}
	g := newGoneTest(t, with)
	if got := g.cleanUp(time.Hour); got != nil {
		t.Errorf("no endpoint is gone: %q", got)
	}
	g.program(Update{Services: []Service{without}})
	if got := g.cleanUp(time.Minute - 1); got != nil {
		t.Errorf("within the delay: %q", got)
	}
	g.program(Update{Services: []Service{with}})
	if got := g.cleanUp(time.Hour); got != nil {
		t.Errorf("the endpoint came back: %q", got)
	}
	g.program(Update{Services: []Service{without}})
	g.program(Update{Services: []Service{with}})
	g.now = g.now.Add(time.Minute - 1)
	g.program(Update{Services: []Service{without}})
	if got := g.cleanUp(time.Minute - 1); got != nil {
		t.Errorf("the delay does not begin again: %q", got)
	}
	if got := g.cleanUp(1); !slices.Equal(got, want) {
		t.Errorf("after the delay: %q, want %q", got, want)
	}
	if got := g.cleanUp(time.Hour); got != nil {
		t.Errorf("again: %q", got)
	}

	g.program(Update{Services: []Service{with}})
	g.Take(Update{Node: flowNode(), Services: []Service{without}})
	if got := g.cleanUp(time.Hour); got != nil {
		t.Errorf("the kernel still has the endpoint: %q", got)
	}
	g.Programmed(g.now)
	if got := g.cleanUp(time.Minute); !slices.Equal(got, want) {
		t.Errorf("a minute after the commit: %q, want %q", got, want)
	}
}

// TestGoneReturnsDuringCleanup: a connection to an endpoint that comes back, or goes again, while the flows are being listed stays.
func TestGoneReturnsDuringCleanup(t *testing.T) {
	with, without := tcpServiceWith("web", "10.96.0.1", goneEndpoint), tcpServiceWith("web", "10.96.0.1")
	g := newGoneTest(t, with)
	g.program(Update{Services: []Service{without}})
	g.now = g.now.Add(time.Minute)
	c, ok := g.Begin(g.now)
	if stale, _ := g.Judge(c, flow(nft.TCP, "10.96.0.1:80", goneEndpoint)); !ok || !stale {
		t.Fatal("the flow is not stale")
	}
	g.program(Update{Services: []Service{with}})
	if stale, _ := g.Judge(c, flow(nft.TCP, "10.96.0.1:80", goneEndpoint)); stale {
		t.Error("the endpoint is back, and its flow is stale")
	}
	g.program(Update{Services: []Service{without}})
	if stale, _ := g.Judge(c, flow(nft.TCP, "10.96.0.1:80", goneEndpoint)); stale {
		t.Error("the endpoint left a moment ago, and its flow is stale")
	}
	g.CleanedUp(c)
	if got := g.cleanUp(time.Minute); len(got) != 1 {
		t.Errorf("the second departure leads to %q", got)
	}
}

// TestGoneOncePerDelay: however many endpoints go, and whenever, there is one cleanup per delay, which covers each endpoint between
// one and two delays after it left.
func TestGoneOncePerDelay(t *testing.T) {
	const every, steps = 100 * time.Millisecond, 6000 // ten minutes
	g := newGoneTest(t)
	endpoint := func(i int) string { return fmt.Sprintf("10.244.%d.%d:8080", i/250, i%250+1) }
	cleanups := 0
	left := make(map[netip.AddrPort]time.Time)
	for i := range steps {
		g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1", endpoint(i))}})
		if i > 0 {
			left[netip.MustParseAddrPort(endpoint(i-1))] = g.now
		}
		g.now = g.now.Add(every)
		c, ok := g.Begin(g.now)
		if !ok {
			continue
		}
		cleanups++
		for e, since := range left {
			stale, _ := g.Judge(c, flow(nft.TCP, "10.96.0.1:80", e.String()))
			if gone := g.now.Sub(since); stale != (gone >= time.Minute) || gone > 2*time.Minute {
				t.Fatalf("%s left %s ago: stale %v", e, gone, stale)
			}
			if stale {
				delete(left, e)
			}
		}
		g.CleanedUp(c)
	}
	if cleanups < 8 || cleanups > 10 {
		t.Errorf("%d cleanups in ten minutes", cleanups)
	}
}

// TestGoneFilters: a cleanup lists each family at most once, and no more than its endpoints have in common.
func TestGoneFilters(t *testing.T) {
	for _, c := range []struct {
		gone, want []string
	}{
		{[]string{"10.244.1.2:80"}, []string{"ip tcp answered by 10.244.1.2:80"}},
		{[]string{"10.244.1.2:80", "10.244.1.3:80"}, []string{"ip tcp answered by port 80"}},
		{[]string{"10.244.1.2:80", "10.244.1.3:81"}, []string{"ip tcp with a translated destination"}},
		{[]string{"10.244.1.2:80", "10.244.1.3:81", "10.244.1.4:80"}, []string{"ip tcp with a translated destination"}},
		{[]string{"[fd00::2]:80", "10.244.1.3:81"}, []string{"ip tcp answered by 10.244.1.3:81", "ip6 tcp answered by [fd00::2]:80"}},
	} {
		g := newGoneTest(t, tcpServiceWith("web", "10.96.0.1", c.gone...))
		g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1")}})
		if got := g.cleanUp(time.Minute); !slices.Equal(got, c.want) {
			t.Errorf("%q: listed %q, want %q", c.gone, got, c.want)
		}
	}
}

// TestGoneOfOthers: a slice of another Service that lists an endpoint and then no longer does resets no connection of the endpoint's own Service.
func TestGoneOfOthers(t *testing.T) {
	g := newGoneTest(t, tcpServiceWith("web", "10.96.0.1", goneEndpoint), tcpServiceWith("more", "10.96.0.2", goneEndpoint))
	g.program(Update{Services: []Service{tcpServiceWith("more", "10.96.0.2")}})
	if got := g.cleanUp(time.Hour); got != nil {
		t.Errorf("listed %q", got)
	}
}

// TestGoneFailed: a cleanup that failed is due again at once, and includes the same endpoints.
func TestGoneFailed(t *testing.T) {
	g := newGoneTest(t, tcpServiceWith("web", "10.96.0.1", goneEndpoint))
	g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1")}})
	g.now = g.now.Add(time.Minute)
	if _, ok := g.Begin(g.now); !ok {
		t.Fatal("no cleanup is due")
	}
	g.Failed()
	if got := g.cleanUp(0); len(got) != 1 {
		t.Errorf("after a failure: %q", got)
	}
}

// TestGoneRestart: a new GoneEndpoints, as after a restart, leaves the connections alone whose endpoints left before.
func TestGoneRestart(t *testing.T) {
	g := newGoneTest(t, tcpServiceWith("web", "10.96.0.1", otherEndpoint))
	if got := g.cleanUp(time.Hour); got != nil {
		t.Errorf("listed %q", got)
	}
	g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1")}})
	if stale, why := g.judge(time.Minute, flow(nft.TCP, "10.96.0.1:80", goneEndpoint)); stale || why != FlowNotGone {
		t.Errorf("%v, %q", stale, why)
	}
}

// TestGoneBounded: beyond maxGoneEndpoints further endpoints that leave are counted and not remembered, and endpoints that come and go
// all the time take no more memory than those that are gone.
func TestGoneBounded(t *testing.T) {
	many := tcpServiceWith("web", "10.96.0.1")
	const extra = 10
	for i := range maxGoneEndpoints + extra {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		many.Ports[0].Endpoints = append(many.Ports[0].Endpoints, Endpoint{AddrPort: netip.AddrPortFrom(addr, 80)})
	}
	g := newGoneTest(t, many)
	g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1")}})
	if n := g.Forgotten(); n != extra || len(g.gone) != maxGoneEndpoints || g.Forgotten() != 0 {
		t.Errorf("forgot %d endpoints and remembers %d", n, len(g.gone))
	}
	g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1", "172.16.0.1:80")}})
	g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1")}})
	if n := g.Forgotten(); n != 1 || len(g.gone) != maxGoneEndpoints {
		t.Errorf("forgot %d endpoints and remembers %d", n, len(g.gone))
	}

	g = newGoneTest(t)
	for range 1000 {
		g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1", goneEndpoint)}})
		g.program(Update{Services: []Service{tcpServiceWith("web", "10.96.0.1")}})
	}
	if len(g.departures) > 100 {
		t.Errorf("%d departures of one endpoint", len(g.departures))
	}
}
