package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestUniform: all endpoints of a Service are equally likely. The bound is the quantile of the chi-square distribution with 6
// degrees of freedom that a fair choice exceeds less than once in ten million runs.
func TestUniform(t *testing.T) {
	const endpoints, connections, bound = 7, 3500, 43.4
	l := newTestNode(t).addNetwork()
	var texts []string
	for i := range endpoints {
		addr := fmt.Sprintf("10.244.1.%d", i+2)
		l.pod(addr, 8080, addr)
		texts = append(texts, addr+":8080")
	}
	client := l.pod("client", 0, "10.244.9.9")
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", texts...)}})
	l.reconcile()
	served := make(map[netip.AddrPort]int)
	for range connections {
		got, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout)
		if err != nil {
			t.Fatal(err)
		}
		served[got.endpoint]++
	}
	if chi := chiSquare(served, endpoints, connections); chi > bound {
		t.Errorf("chi-square %.1f > %.1f: %v", chi, bound, served)
	}
	if got := l.tables()[0].Set("services").Elements[0].Counter; got == nil || got.Packets != connections {
		t.Errorf("the counter of the frontend is %+v after %d connections", got, connections)
	}
}

// chiSquare returns the chi-square statistic of the connections served, against equal chances.
func chiSquare(served map[netip.AddrPort]int, endpoints, connections int) float64 {
	expected := float64(connections) / float64(endpoints)
	chi := float64(endpoints-len(served)) * expected
	for _, n := range served {
		chi += math.Pow(float64(n)-expected, 2) / expected
	}
	return chi
}

// TestUniformCounts: from 1 to 33 endpoints, all are equally likely. The packets are counted by the elements of the endpoints map.
func TestUniformCounts(t *testing.T) {
	const most, perEndpoint = 33, 200
	l := newTestNode(t).addNetwork()
	l.facts.Counters = render.CountEndpoints
	l.pod("server", 0, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	var services []render.Service
	var endpoints []string
	for n := 1; n <= most; n++ {
		endpoints = append(endpoints, fmt.Sprintf("10.244.1.2:%d", 10_000+n))
		services = append(services, service(fmt.Sprint("s", n), nft.UDP, fmt.Sprintf("10.96.0.%d:80", n), endpoints...))
	}
	l.ruleset.Update(render.Update{Node: l.facts, Services: services})
	l.reconcile()
	for n := 1; n <= most; n++ {
		sendFlows(t, client.Namespace, netip.MustParseAddrPort(fmt.Sprintf("10.96.0.%d:80", n)), n*perEndpoint)
	}
	served := make(map[netip.Addr]map[netip.AddrPort]int)
	set := l.tables()[0].Set("endpoints")
	for _, e := range set.Elements {
		to, frontend := e.Data.Fields(set.Data), e.Key.Fields(set.Key)[0].Addr()
		if served[frontend] == nil {
			served[frontend] = make(map[netip.AddrPort]int)
		}
		served[frontend][netip.AddrPortFrom(to[0].Addr(), to[1].Uint16())] = int(e.Counter.Packets)
	}
	for n := 1; n <= most; n++ {
		got := served[netip.AddrFrom4([4]byte{10, 96, 0, byte(n)})]
		sum := 0
		for _, packets := range got {
			sum += packets
		}
		if sum != n*perEndpoint || len(got) != n {
			t.Errorf("%d endpoints: %d of %d packets are counted by %d endpoints", n, sum, n*perEndpoint, len(got))
		}
		if chi, bound := chiSquare(got, n, sum), chiSquareBound(n-1); chi > bound {
			t.Errorf("%d endpoints: chi-square %.1f > %.1f: %v", n, chi, bound, got)
		}
	}
}

// chiSquareBound returns a bound that the chi-square statistic of a fair choice exceeds with a chance below 3e-8, so that 33
// tests together fail less than once in a million runs: the approximation of Wilson and Hilferty (1931), which for these degrees of
// freedom is not below the quantile. Without a degree of freedom there is nothing to exceed.
func chiSquareBound(freedom int) float64 {
	if freedom == 0 {
		return 0
	}
	const z = 5.5 // a normal variable exceeds it with a chance of 1.9e-8
	k := 2 / (9 * float64(freedom))
	return float64(freedom) * math.Pow(1-k+z*math.Sqrt(k), 3)
}

// sendFlows sends the first packets of UDP flows from a namespace, from port 10,000 on.
func sendFlows(t *testing.T, ns *sandbox.Namespace, to netip.AddrPort, flows int) {
	t.Helper()
	err := ns.Do(func() error {
		for i := range flows {
			if err := sendFlow(uint16(10_000+i), to); err != nil {
				return fmt.Errorf("flow %d: %w", i, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sendFlow sends a packet from a port.
func sendFlow(port uint16, to netip.AddrPort) error {
	family, unspecified := unix.AF_INET, netip.IPv4Unspecified()
	if to.Addr().Is6() {
		family, unspecified = unix.AF_INET6, netip.IPv6Unspecified()
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(unspecified, port))); err != nil {
		return err
	}
	return unix.Sendto(fd, binary.BigEndian.AppendUint16(nil, port), 0, sockaddr(to))
}

// TestMostEndpoints: a Service with as many endpoints as a frontend can have uses all its slots: about half of the packets go to the
// upper half of the slots.
func TestMostEndpoints(t *testing.T) {
	const flows = 4000
	l := newTestNode(t).addNetwork()
	l.facts.Counters = render.CountEndpoints
	l.pod("server", 0, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	s := service("s", nft.UDP, "10.96.0.1:80")
	for i := range render.MaxEndpoints {
		addr := netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + i>>15)})
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints,
			render.Endpoint{AddrPort: netip.AddrPortFrom(addr, uint16(10_000+i&0x7fff)), Node: "node-b", Ready: true, Serving: true})
	}
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{s}})
	l.reconcile()
	sendFlows(t, client.Namespace, netip.MustParseAddrPort("10.96.0.1:80"), flows)
	upper, all := 0, 0
	set := l.tables()[0].Set("endpoints")
	for _, e := range set.Elements {
		packets := int(e.Counter.Packets)
		if all += packets; e.Key.Fields(set.Key)[3].Uint16() >= render.MaxEndpoints/2 {
			upper += packets
		}
	}
	if deviation := math.Abs(float64(upper) - flows/2); len(set.Elements) != render.MaxEndpoints || all != flows || deviation > 5.5*math.Sqrt(flows)/2 {
		t.Errorf("%d slots counted %d of %d packets, %d of them in the upper half", len(set.Elements), all, flows, upper)
	}
}
