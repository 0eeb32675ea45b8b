package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"

	"nfproxy/conntrack"
)

// flowAddrs are the addresses of these tests: of the client, three endpoints, and a frontend.
var flowAddrs = map[nft.Family]struct{ client, a, b, c, frontend, node string }{
	nft.IPv4: {"10.244.9.9", "10.244.1.2", "10.244.1.3", "10.244.1.4", "10.96.0.10:53", "192.0.2.10"},
	nft.IPv6: {"fd00:10:244:9::9", "fd00:10:244:1::2", "fd00:10:244:1::3", "fd00:10:244:1::4", "[fd00:10:96::10]:53", "2001:db8::10"},
}

func at(addr string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// tracking is a table of somebody else's, for whose sake connections are tracked before we have rules.
const tracking = "table %s tracking { chain c { type filter hook prerouting priority 0; ct state new accept; }; }"

// TestFlows: a client that never changes its port follows its Service through everything that can happen to it.
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
				t.Errorf("begun before the Service was there: %v", deleted)
			}
			r.expect(t, a)
			if deleted := l.change(dns(a, c)); len(deleted) != 0 {
				t.Errorf("an endpoint more: deleted %v", deleted)
			}
			r.expect(t, a)
			l.change(dns(b))
			r.expect(t, b)

			terminating := dns(b, c)
			terminating.Services[0].Ports[0].Endpoints[0].Ready = false
			terminating.Services[0].Ports[0].Endpoints[0].Terminating = true
			if deleted := l.change(terminating); len(deleted) != 0 {
				t.Errorf("terminates and serves: deleted %v", deleted)
			}
			r.expect(t, b)
			terminating.Services[0].Ports[0].Endpoints[0].Serving = false
			l.index.Take(terminating)
			if changes := l.apply(terminating); len(changes) != 0 {
				t.Errorf("the rules change: %v", changes)
			}
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
				t.Errorf("left over: %v", rest)
			}
		})
	}
}

// TestFlowsRestart: a restart over the same tables deletes nothing that is right, and what went meanwhile is noticed.
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
		t.Errorf("deleted %v", deleted)
	}
	if deleted := restart(stays); len(deleted) != 1 || deleted[0].Original.Destination.String() != "10.96.0.11:53" {
		t.Errorf("deleted %v", deleted)
	}
}

// TestFlowsOfOthers: all that is not ours survives a sweep of everything, with a Service that has lost all endpoints.
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
	theirs := strings.Replace(frontend, "10", "99", 1) // another proxy's frontend
	l.nft(fmt.Sprintf(`table %[1]s other {
		chain raw {
			type filter hook prerouting priority -300;
			udp sport { 40006, 40007 } ct zone set 7
			udp dport { 40006, 40007 } ct zone set 7
		}
		chain before { type nat hook prerouting priority -110; %[1]s daddr %[2]s udp dport 53 dnat to %[3]s; }
		chain after { type nat hook postrouting priority 110; udp sport 40002 masquerade; }
	}`, family, netip.MustParseAddrPort(theirs).Addr(), at(aAddr, 5353)), "-f", "-")
	l.answerOnce(at(nodeAddr, 30053))
	l.serveEcho(a, at(aAddr, 5454))
	ask := func(from uint16, to, want string) {
		t.Helper()
		newUDPClient(t, client.Namespace, at(clientAddr, from), to).expect(t, want)
	}

	ask(40007, frontend, "") // in a CNI's zone, untranslated
	dns, tcp := service("dns", nft.UDP, frontend, at(aAddr, 5353)), service("tcp", nft.TCP, frontend, at(aAddr, 5454))
	if deleted := l.start(dns, tcp); len(deleted) != 0 {
		t.Errorf("deleted %v", deleted)
	}
	ask(40000, frontend, at(aAddr, 5353))
	ask(40001, theirs, at(aAddr, 5353))
	ask(40002, at(bAddr, 5353), at(bAddr, 5353)) // masqueraded
	ask(40003, at(bAddr, 5353), at(bAddr, 5353)) // forwarded
	ask(40004, at(nodeAddr, 30053), "node")
	ask(40006, theirs, at(aAddr, 5353)) // in a zone
	talk := l.openEcho(client, frontend)
	if flows := l.list(nft.UDP); len(flows) != 7 {
		t.Errorf("%d flows at first: %v", len(flows), flows)
	}

	dns.Ports[0].Endpoints, dns.Ports[0].NodePort = nil, 30053
	tcp.Ports[0].Endpoints = nil
	deleted := l.change(render.Update{Services: []render.Service{dns, tcp}})
	if len(deleted) != 1 || deleted[0].Original.Source.String() != at(clientAddr, 40000) {
		t.Errorf("deleted %v", deleted)
	}
	if flows := l.list(nft.UDP); len(flows) != 6 {
		t.Errorf("%d flows at last: %v", len(flows), flows)
	}
	talk()
}

// TestFlowsInZone: a flow of ours that is tracked in a zone is deleted there, and its twin in the default zone is not
// touched.
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
	// Until the flow in the zone goes to the second endpoint it is begun anew.
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
		t.Errorf("deleted %v", deleted)
	}
	if rest := l.list(nft.UDP); len(rest) != 1 || rest[0].Zone != 0 {
		t.Errorf("left: %v", rest)
	}
	r.expect(t, both[0])
}

// TestFlowDelete: what is deleted is that entry, and not one that began since with the same addresses.
func TestFlowDelete(t *testing.T) {
	l := newFlowNode(t)
	l.pod("a", 5353, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	l.nft(fmt.Sprintf(tracking, nft.IPv4), "-f", "-")
	r := newUDPClient(t, client.Namespace, "10.244.9.9:40000", "10.244.1.2:5353")
	r.expect(t, "10.244.1.2:5353")
	f, ok := l.flowTo(nft.UDP, "10.244.1.2:5353")
	if !ok || !f.Answered() || f.Translated() {
		t.Fatalf("%+v", f)
	}
	later := f
	later.ID++
	if err := l.flows.Delete(later); err != nil {
		t.Error(err)
	}
	if _, ok := l.flowTo(nft.UDP, "10.244.1.2:5353"); !ok {
		t.Error("another entry was deleted")
	}
	for range 2 {
		if err := l.flows.Delete(f); err != nil {
			t.Error(err)
		}
	}
	if _, ok := l.flowTo(nft.UDP, "10.244.1.2:5353"); ok {
		t.Error("it is still there")
	}
	if err := l.flows.Delete(conntrack.Flow{Family: nft.IPv4, Protocol: nft.UDP}); err == nil {
		t.Error("a flow without addresses was deleted: all of them")
	}
}

// TestFlowsSCTP: an association's entry goes with its endpoint.
func TestFlowsSCTP(t *testing.T) {
	l := newFlowNode(t)
	first := rawSCTP(t, l.pod("first", 0, "10.244.1.2"), "10.244.1.2")
	second := rawSCTP(t, l.pod("second", 0, "10.244.1.3"), "10.244.1.3")
	client := rawSCTP(t, l.pod("client", 0, "10.244.9.9"), "10.244.9.9")
	const frontend = "10.96.0.1:38412"
	l.start(service("sctp", nft.SCTP, frontend, "10.244.1.2:9999"))
	sendSCTP(t, client, "10.96.0.1", initChunk(1, 40000, 38412, 0, 1))
	receiveSCTP(t, first)
	deleted := l.change(render.Update{Services: []render.Service{service("sctp", nft.SCTP, frontend, "10.244.1.3:9999")}})
	if len(deleted) != 1 || deleted[0].Protocol != nft.SCTP {
		t.Errorf("deleted %v", deleted)
	}
	sendSCTP(t, client, "10.96.0.1", initChunk(1, 40000, 38412, 0, 1))
	receiveSCTP(t, second)
}
