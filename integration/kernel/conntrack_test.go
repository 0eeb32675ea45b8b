package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"

	"nfproxy/conntrack"
)

// flowAddrs are the addresses of a client, three endpoints, a frontend and the node.
var flowAddrs = map[nft.Family]struct{ client, a, b, c, frontend, node string }{
	nft.IPv4: {"10.244.9.9", "10.244.1.2", "10.244.1.3", "10.244.1.4", "10.96.0.10:53", "192.0.2.10"},
	nft.IPv6: {"fd00:10:244:9::9", "fd00:10:244:1::2", "fd00:10:244:1::3", "fd00:10:244:1::4", "[fd00:10:96::10]:53", "2001:db8::10"},
}

// balancerAddrs are the addresses of a load balancer.
var balancerAddrs = map[nft.Family]string{nft.IPv4: "203.0.113.2", nft.IPv6: "2001:db8:1::2"}

func at(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// tracking is the format of a foreign table that makes the kernel track connections before nfproxy has rules.
const tracking = "table %s tracking { chain c { type filter hook prerouting priority 0; ct state new accept; }; }"

// TestFlows: a UDP client that never changes its port reaches the right endpoint after every change of its Service, because
// the cleanup deletes the flow that has become stale.
func TestFlows(t *testing.T) {
	for family, addrs := range flowAddrs {
		t.Run(family.String(), func(t *testing.T) {
			l := newFlowNode(t)
			for _, addr := range []string{addrs.a, addrs.b, addrs.c} {
				l.pod(addr, 5353, addr)
			}
			client := l.pod("client", 0, addrs.client)
			a, b, c := at(addrs.a, 5353), at(addrs.b, 5353), at(addrs.c, 5353)
			dns := func(endpoints ...string) render.Update {
				return render.Update{Services: []render.Service{service("dns", nft.UDP, addrs.frontend, endpoints...)}}
			}
			r := newUDPClient(t, client.Namespace, at(addrs.client, 40000), addrs.frontend)

			l.nft(fmt.Sprintf(tracking, family), "-f", "-")
			r.expect(t, "")
			if deleted := l.start(dns(a).Services...); len(deleted) != 1 {
				t.Errorf("first cleanup: deleted %v, want the flow that is older than the Service", deleted)
			}
			r.expect(t, a)
			if deleted := l.change(dns(a, c)); len(deleted) != 0 {
				t.Errorf("added an endpoint: deleted %v, want none", deleted)
			}
			r.expect(t, a)
			l.change(dns(b))
			r.expect(t, b)

			terminates := func(serving bool) render.Update {
				u := dns(b, c)
				first := &u.Services[0].Ports[0].Endpoints[0]
				first.Ready, first.Terminating, first.Serving = false, true, serving
				return u
			}
			terminating := terminates(true)
			if deleted := l.change(terminating); len(deleted) != 0 {
				t.Errorf("endpoint terminates but serves: deleted %v, want none", deleted)
			}
			r.expect(t, b)
			terminating = terminates(false)
			if changes := l.apply(terminating); len(changes) != 0 {
				t.Errorf("endpoint terminates and no longer serves: the rules change by %v, want no change", changes)
			}
			l.index.Take(terminating, l.ruleset.Owner)
			l.index.Programmed(nil)
			l.cleanUp()
			r.expect(t, c)

			l.change(dns())
			r.expect(t, "")
			l.change(dns(a))
			r.expect(t, a)
			l.change(render.Update{Removed: []render.ServiceName{dns().Services[0].ServiceName}})
			r.expect(t, "")
			if rest := l.list(nft.UDP); len(rest) != 0 {
				t.Errorf("after the removal of the Service: flows %v, want none", rest)
			}
		})
	}
}

// TestFlowsOfUnreadyEndpoints: a UDP client keeps its endpoint while no endpoint is ready, and loses it when another one is ready or
// the endpoint is in no slice any more.
func TestFlowsOfUnreadyEndpoints(t *testing.T) {
	for family, addrs := range flowAddrs {
		t.Run(family.String(), func(t *testing.T) {
			l := newFlowNode(t)
			for _, addr := range []string{addrs.a, addrs.b} {
				l.pod(addr, 5353, addr)
			}
			client := l.pod("client", 0, addrs.client)
			a, b := at(addrs.a, 5353), at(addrs.b, 5353)
			r := newUDPClient(t, client.Namespace, at(addrs.client, 40000), addrs.frontend)
			l.start(service("dns", nft.UDP, addrs.frontend, a))
			r.expect(t, a)
			for _, step := range []struct {
				name      string
				endpoints []string
				deleted   int
				want      string
			}{
				{"the last endpoint becomes unready", []string{a + " unready"}, 0, a},
				{"another unready endpoint appears", []string{a + " unready", b + " unready"}, 0, a},
				{"the other endpoint becomes ready", []string{a + " unready", b}, 1, b},
				{"both are unready", []string{a + " unready", b + " unready"}, 0, b},
				{"the endpoint leaves the slices", []string{a + " unready"}, 1, ""},
				{"the endpoint appears again", []string{b}, 0, b},
				{"the last endpoint leaves the slices", nil, 1, ""},
			} {
				t.Log(step.name)
				deleted := l.change(render.Update{Services: []render.Service{service("dns", nft.UDP, addrs.frontend, step.endpoints...)}})
				if len(deleted) != step.deleted {
					t.Errorf("deleted %v, want %d flows", deleted, step.deleted)
				}
				r.expect(t, step.want)
			}
		})
	}
}

// TestFlowsOfSourceRanges: a client of a load balancer address that never stops sending loses its flow when the source ranges no
// longer admit it, and keeps it while they do. A client of the cluster IP is not affected.
func TestFlowsOfSourceRanges(t *testing.T) {
	for family, addrs := range flowAddrs {
		t.Run(family.String(), func(t *testing.T) {
			l := newFlowNode(t)
			l.pod("a", 5353, addrs.a)
			client := l.pod("client", 0, addrs.client)
			a, balancer := at(addrs.a, 5353), balancerAddrs[family]
			of := netip.MustParseAddr(addrs.client)
			dns := func(ranges ...netip.Prefix) render.Service {
				s := service("dns", nft.UDP, addrs.frontend, a)
				s.LoadBalancerIPs, s.SourceRanges = []netip.Addr{netip.MustParseAddr(balancer)}, ranges
				return s
			}
			l.start(dns())
			inside := newUDPClient(t, client.Namespace, at(addrs.client, 40000), addrs.frontend)
			r := newUDPClient(t, client.Namespace, at(addrs.client, 40001), at(balancer, 53))
			inside.expect(t, a)
			r.expect(t, a)
			stop := r.keepSending(t)
			wide, other := netip.PrefixFrom(of, of.BitLen()-8).Masked(), netip.PrefixFrom(of.Next(), of.BitLen())
			for _, step := range []struct {
				name    string
				ranges  []netip.Prefix
				deleted int
			}{
				{"the ranges admit the client", []netip.Prefix{wide, other}, 0},
				{"tighter ranges admit the client", []netip.Prefix{netip.PrefixFrom(of, of.BitLen()), other}, 0},
				{"the ranges exclude the client", []netip.Prefix{other}, 1},
			} {
				if deleted := l.change(render.Update{Services: []render.Service{dns(step.ranges...)}}); len(deleted) != step.deleted {
					t.Errorf("%s: deleted %v, want %d flows", step.name, deleted, step.deleted)
				}
			}
			time.Sleep(silence) // the client sends more packets, none of which may begin a new flow
			if f, ok := l.flowTo(nft.UDP, at(balancer, 53)); ok {
				t.Errorf("the excluded client has the flow %v", f)
			}
			stop()
			inside.expect(t, a)
			l.change(render.Update{Services: []render.Service{dns(wide)}})
			newUDPClient(t, client.Namespace, at(addrs.client, 40002), at(balancer, 53)).expect(t, a)
		})
	}
}

// TestFlowsRestart: the cleanup after a restart deletes the flows to frontends that were removed meanwhile, and no others.
func TestFlowsRestart(t *testing.T) {
	l := newFlowNode(t)
	l.pod("a", 5353, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	stays, goes := service("stays", nft.UDP, "10.96.0.10:53", "10.244.1.2:5353"), service("goes", nft.UDP, "10.96.0.11:53", "10.244.1.2:5353")
	l.start(stays, goes)
	for i, s := range []string{"10.96.0.10:53", "10.96.0.11:53"} {
		newUDPClient(t, client.Namespace, fmt.Sprintf("10.244.9.9:%d", 40000+i), s).expect(t, "10.244.1.2:5353")
	}
	restart := func(services ...render.Service) []conntrack.Flow {
		l.index, l.ruleset = render.NewFlowIndex(), render.NewRuleset(l.facts)
		return l.start(services...)
	}
	if deleted := restart(stays, goes); len(deleted) != 0 {
		t.Errorf("restart without a change: deleted %v, want none", deleted)
	}
	if deleted := restart(stays); len(deleted) != 1 || deleted[0].Original.Destination.String() != "10.96.0.11:53" {
		t.Errorf("restart without a Service: deleted %v, want its flow", deleted)
	}
}

// TestForeignFlows: a cleanup of all flows, after a Service has lost its endpoints, deletes no flow that is not nfproxy's.
func TestForeignFlows(t *testing.T) {
	for family, addrs := range flowAddrs {
		t.Run(family.String(), func(t *testing.T) {
			testForeignFlows(t, family, addrs.client, addrs.a, addrs.b, addrs.frontend, addrs.node)
		})
	}
}

func testForeignFlows(t *testing.T, family nft.Family, clientAddr, aAddr, bAddr, frontend, nodeAddr string) {
	l := newFlowNode(t)
	a := l.pod("a", 5353, aAddr)
	l.pod("b", 5353, bAddr)
	client := l.pod("client", 0, clientAddr)
	foreign := strings.Replace(frontend, "10", "99", 1) // a frontend of another proxy
	l.nft(fmt.Sprintf(`table %[1]s other {
		chain raw {
			type filter hook prerouting priority -300;
			udp sport { 40006, 40007 } ct zone set 7
			udp dport { 40006, 40007 } ct zone set 7
		}
		chain before { type nat hook prerouting priority -110; %[1]s daddr %[2]s udp dport 53 dnat to %[3]s; }
		chain after { type nat hook postrouting priority 110; udp sport 40002 masquerade; }
	}`, family, netip.MustParseAddrPort(foreign).Addr(), at(aAddr, 5353)), "-f", "-")
	l.answerOnce(at(nodeAddr, 30053))
	l.serveEcho(a, at(aAddr, 5454))
	ask := func(from uint16, to, want string) {
		t.Helper()
		newUDPClient(t, client.Namespace, at(clientAddr, from), to).expect(t, want)
	}

	ask(40007, frontend, "") // in the conntrack zone of a CNI plugin, untranslated
	dns, tcp := service("dns", nft.UDP, frontend, at(aAddr, 5353)), service("tcp", nft.TCP, frontend, at(aAddr, 5454))
	if deleted := l.start(dns, tcp); len(deleted) != 0 {
		t.Errorf("first cleanup: deleted %v, want none", deleted)
	}
	ask(40000, frontend, at(aAddr, 5353))
	ask(40001, foreign, at(aAddr, 5353))
	ask(40002, at(bAddr, 5353), at(bAddr, 5353)) // masqueraded
	ask(40003, at(bAddr, 5353), at(bAddr, 5353)) // forwarded
	ask(40004, at(nodeAddr, 30053), "node")
	ask(40006, foreign, at(aAddr, 5353)) // in the zone
	checkTCP := l.openEcho(client, frontend)
	if flows := l.list(nft.UDP); len(flows) != 7 {
		t.Errorf("%d flows before the change, want 7: %v", len(flows), flows)
	}

	dns.Ports[0].Endpoints, dns.Ports[0].NodePort = nil, 30053
	tcp.Ports[0].Endpoints = nil
	deleted := l.change(render.Update{Services: []render.Service{dns, tcp}})
	if len(deleted) != 1 || deleted[0].Original.Source.String() != at(clientAddr, 40000) {
		t.Errorf("deleted %v, want the flow of port 40000", deleted)
	}
	if flows := l.list(nft.UDP); len(flows) != 6 {
		t.Errorf("%d flows after the change, want 6: %v", len(flows), flows)
	}
	checkTCP()
}

// TestFlowsInZone: a stale flow in a conntrack zone is deleted in that zone, and the flow with the same addresses in the
// default zone stays.
func TestFlowsInZone(t *testing.T) {
	l := newFlowNode(t)
	for _, addr := range []string{"10.244.1.2", "10.244.1.3"} {
		l.pod(addr, 5353, addr)
	}
	client := l.pod("client", 0, "10.244.9.9")
	const frontend = "10.96.0.10:53"
	both := []string{"10.244.1.2:5353", "10.244.1.3:5353"}
	l.start(service("dns", nft.UDP, frontend, both[0]))
	r := newUDPClient(t, client.Namespace, "10.244.9.9:40006", frontend)
	r.expect(t, both[0])
	l.change(render.Update{Services: []render.Service{service("dns", nft.UDP, frontend, both...)}})
	l.nft(`table ip other { chain raw { type filter hook prerouting priority -300; udp sport 40006 ct zone set 7; udp dport 40006 ct zone set 7; }; }`,
		"-f", "-")
	// The flow in the zone is deleted and started again until it leads to the second endpoint.
	inZone := func() conntrack.Flow {
		for _, f := range l.list(nft.UDP) {
			if f.Zone == 7 {
				return f
			}
		}
		return conntrack.Flow{}
	}
	for {
		if who, err := r.ask(connectTimeout); err != nil {
			t.Fatal(err)
		} else if who == both[1] {
			break
		}
		if err := l.flows.Delete(inZone()); err != nil {
			t.Fatal(err)
		}
	}
	deleted := l.change(render.Update{Services: []render.Service{service("dns", nft.UDP, frontend, both[0])}})
	if len(deleted) != 1 || deleted[0].Zone != 7 {
		t.Errorf("deleted %v, want the flow in zone 7", deleted)
	}
	if rest := l.list(nft.UDP); len(rest) != 1 || rest[0].Zone != 0 {
		t.Errorf("flows after the cleanup: %v, want the one in the default zone", rest)
	}
	r.expect(t, both[0])
}

// TestFlowDelete: Delete deletes an entry once, and not a later entry with the same addresses.
func TestFlowDelete(t *testing.T) {
	l := newFlowNode(t)
	l.pod("a", 5353, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	l.nft(fmt.Sprintf(tracking, nft.IPv4), "-f", "-")
	r := newUDPClient(t, client.Namespace, "10.244.9.9:40000", "10.244.1.2:5353")
	r.expect(t, "10.244.1.2:5353")
	f, ok := l.flowTo(nft.UDP, "10.244.1.2:5353")
	if !ok || !f.Answered() || f.Translated() {
		t.Fatalf("flow %+v, want one that is answered and not translated", f)
	}
	later := f
	later.ID++
	if err := l.flows.Delete(later); err != nil {
		t.Error(err)
	}
	if _, ok := l.flowTo(nft.UDP, "10.244.1.2:5353"); !ok {
		t.Error("Delete of an entry with another ID deleted the entry")
	}
	for range 2 {
		if err := l.flows.Delete(f); err != nil {
			t.Error(err)
		}
	}
	if _, ok := l.flowTo(nft.UDP, "10.244.1.2:5353"); ok {
		t.Error("Delete did not delete the entry")
	}
	if err := l.flows.Delete(conntrack.Flow{Family: nft.IPv4, Protocol: nft.UDP}); err == nil {
		t.Error("Delete of a flow without addresses returns no error: it deletes all flows")
	}
}

// TestFlowsSCTP: the conntrack entry of an SCTP association stays while its endpoint is in a slice, ready or not, and is deleted
// when the endpoint is removed.
func TestFlowsSCTP(t *testing.T) {
	l := newFlowNode(t)
	first := rawSCTP(t, l.pod("first", 0, "10.244.1.2"), "10.244.1.2")
	second := rawSCTP(t, l.pod("second", 0, "10.244.1.3"), "10.244.1.3")
	client := rawSCTP(t, l.pod("client", 0, "10.244.9.9"), "10.244.9.9")
	const frontend = "10.96.0.1:38412"
	l.start(service("sctp", nft.SCTP, frontend, "10.244.1.2:9999"))
	send := func() { sendSCTP(t, client, "10.96.0.1", initChunk(1, 40000, 38412, 0, 1)) }
	send()
	receiveSCTP(t, first)
	for _, endpoints := range [][]string{{"10.244.1.2:9999 unready"}, {"10.244.1.2:9999 unready", "10.244.1.3:9999"}} {
		deleted := l.change(render.Update{Services: []render.Service{service("sctp", nft.SCTP, frontend, endpoints...)}})
		if len(deleted) != 0 {
			t.Errorf("endpoints %v: deleted %v, want none", endpoints, deleted)
		}
		send()
		receiveSCTP(t, first)
	}
	deleted := l.change(render.Update{Services: []render.Service{service("sctp", nft.SCTP, frontend, "10.244.1.3:9999")}})
	if len(deleted) != 1 || deleted[0].Protocol != nft.SCTP {
		t.Errorf("deleted %v, want the SCTP flow", deleted)
	}
	send()
	receiveSCTP(t, second)
}
