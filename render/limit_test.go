package render

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
)

// limitedService returns a Service with limits and one endpoint, in both families.
func limitedService(name string, l Limits) Service {
	s := Service{ServiceName: ServiceName{"ns", name}, Limits: l,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:96::1")}}
	s.Ports = []Port{{Protocol: nft.TCP, Port: 80}}
	for _, text := range []string{"10.244.0.1:8080", "[fd00:244::1]:8080"} {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, Endpoint{AddrPort: netip.MustParseAddrPort(text), Node: "n", Ready: true, Serving: true})
	}
	return s
}

func perSecond(n uint64, burst uint32) nft.Limit {
	return nft.Limit{Packets: n, Per: time.Second, Burst: burst}
}

// TestLimitPaths: a packet within the limits reaches the endpoint, one above them is refused or dropped; the path names the chains that
// decide so.
func TestLimitPaths(t *testing.T) {
	for _, c := range []struct {
		limits Limits
		over   nft.Outcome
		chains []string // that a packet above the limits passes
	}{
		{Limits{}, nft.Accepted, []string{"prerouting", "dispatch", "lb-2", "draw-2"}},
		{Limits{Rate: perSecond(100, 7)}, nft.Reset, []string{"prerouting", "dispatch", "limited", "refuse"}},
		{Limits{Rate: perSecond(100, 7), Drop: true}, nft.Dropped, []string{"prerouting", "dispatch", "limited"}},
		{Limits{ClientRate: perSecond(3, 4)}, nft.Reset, []string{"prerouting", "dispatch", "client-limit-3-second-4", "refuse"}},
		{Limits{ClientRate: perSecond(3, 4), Rate: perSecond(1, 1), Drop: true}, nft.Dropped, []string{"prerouting", "dispatch", "client-limit-3-second-4"}},
	} {
		tables := Tables(Update{Node: Node{Name: "n"}, Services: []Service{limitedService("s", c.limits)}})
		for _, table := range tables {
			if err := table.Validate(); err != nil {
				t.Fatal(err)
			}
			p := nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP, Source: netip.MustParseAddrPort("192.0.2.1:1000"), Destination: netip.MustParseAddrPort("10.96.0.1:80")}
			if table.Family == nft.IPv6 {
				p.Source, p.Destination = netip.MustParseAddrPort("[2001:db8::1]:1000"), netip.MustParseAddrPort("[fd00:96::1]:80")
			}
			within := nft.Simulate(table, p)
			if within.Outcome != nft.Accepted || within.Destination.Port() != 8080 {
				t.Errorf("%+v: within the limits a packet ends %v at %v", c.limits, within.Outcome, within.Destination)
			}
			p.OverLimit = true
			over := nft.Simulate(table, p)
			var chains []string
			for _, s := range over.Steps {
				if len(chains) == 0 || chains[len(chains)-1] != s.Chain {
					chains = append(chains, s.Chain)
				}
			}
			if over.Outcome == nft.Accepted {
				chains = chains[:min(4, len(chains))] // without those at postrouting
			}
			if over.Outcome != c.over || !slices.Equal(chains, c.chains) {
				t.Errorf("%+v: above the limits a packet ends %v in %v, want %v in %v", c.limits, over.Outcome, chains, c.over, c.chains)
			}
		}
	}
}

// TestLimitedClientsStayUntilRefilled: a client stays in the set until its bucket is full again.
func TestLimitedClientsStayUntilRefilled(t *testing.T) {
	for _, c := range []struct {
		limit   nft.Limit
		timeout time.Duration
	}{
		{perSecond(10, 10), 2 * time.Second},
		{perSecond(1000, 5), time.Second},
		{nft.Limit{Packets: 3, Per: time.Minute, Burst: 5}, 101 * time.Second},
		{nft.Limit{Packets: 1, Per: time.Hour, Burst: MaxConnectionRate}, MaxConnectionRate*time.Hour + time.Second},
	} {
		l := clientLimit{nft.IPv4, c.limit}
		_, chain := l.objects(SchemaOf(nft.IPv4))
		got := chain.Rules[0].Match[0].(nft.OverLimit).Timeout
		if got != c.timeout {
			t.Errorf("%s: the timeout is %v, want %v", c.limit, got, c.timeout)
		}
		if again, ok := clientLimitOf(nft.IPv4, nft.GotoChain(l.chainName())); !ok || again != l {
			t.Errorf("%s: the name %s is that of %+v", c.limit, l.chainName(), again)
		}
	}
}

// TestNoLimitsNoObjects: without a Service with limits there is no object for them, and a Service without limits has the same elements
// beside one with limits.
func TestNoLimitsNoObjects(t *testing.T) {
	plain, limited := limitedService("plain", Limits{}), limitedService("limited", Limits{Rate: perSecond(1, 1), ClientRate: perSecond(2, 2)})
	limited.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.2")}
	n := Node{Name: "n"}
	for _, table := range Tables(Update{Node: n, Services: []Service{plain}}) {
		for _, s := range table.Sets {
			if isOfLimits(s.Name) {
				t.Errorf("set %s exists without limits", s.Name)
			}
		}
		for _, c := range table.Chains {
			if IsLimiting(c.Name) {
				t.Errorf("chain %s exists without limits", c.Name)
			}
		}
	}
	r := NewRuleset(n)
	r.Update(Update{Node: n, Services: []Service{limited}})
	r.Observe(nil)
	r.Plan()
	r.Accept()
	r.Update(Update{Node: n, Services: []Service{plain}})
	beside := fmt.Sprint(r.Plan())
	r = NewRuleset(n)
	r.Observe(nil)
	r.Plan()
	r.Accept()
	limited.Limits = Limits{}
	r.Update(Update{Node: n, Services: []Service{limited}})
	r.Plan()
	r.Accept()
	r.Update(Update{Node: n, Services: []Service{plain}})
	if alone := fmt.Sprint(r.Plan()); alone != beside {
		t.Errorf("beside a Service with limits, another one is added by\n%s\nwithout it by\n%s", beside, alone)
	}
}
