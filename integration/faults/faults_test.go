package faults

import (
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/render"
)

var all = flag.Bool("faults.all", false, "let every call fail with every error, which takes about three quarters of an hour; otherwise a part of them")

// errnos are the errors that a call fails with.
var errnos = []syscall.Errno{unix.ENOBUFS, unix.EINTR, unix.EAGAIN, unix.ENOMEM}

// phase is something that the daemon does. undo and do return when the change is made; the daemon then reacts.
type phase struct {
	name string
	// before returns the node to the state in which do is a change. do makes the change.
	before, do func(*node)
	// undone: the daemon undoes what do does, so that before is needed once. Then repairs follow each other so fast that the daemon makes
	// pauses, and some have fewer calls.
	undone bool
}

// services returns the manifests of all phases: the numbers of endpoints differ, so that no balancing chain is ever unused.
func services(changing ...string) []string {
	return append([]string{
		service("one", "clusterIP: 10.96.1.1", "TCP", 1), service("two", "clusterIP: 10.96.1.2", "TCP", 1, 2),
		service("three", "clusterIP: 10.96.1.3", "TCP", 1, 2, 3), service("five", "clusterIP: 10.96.1.5, externalIPs: [203.0.113.5]", "TCP", 1, 2, 3, 4, 5),
	}, changing...)
}

const (
	stickySpec = "clusterIP: 10.96.2.1, sessionAffinity: ClientIP"
	dnsSpec    = "clusterIP: 10.96.2.2"
)

// phases are all but the start.
var phases = []phase{
	{name: "update",
		before: func(n *node) {
			n.write(services(service("a", "clusterIP: 10.96.2.3", "TCP", 1, 2), service("b", "clusterIP: 10.96.2.4", "TCP"), service("gone", "clusterIP: 10.96.2.5", "TCP", 1))...)
		},
		do: func(n *node) {
			n.write(services(service("a", "clusterIP: 10.96.2.3, externalIPs: [203.0.113.1]", "TCP", 2, 3, 4), service("b", "clusterIP: 10.96.2.4", "TCP", 1),
				service("new", "clusterIP: 10.96.2.6, sessionAffinity: ClientIP", "TCP", 1, 2))...)
		}},
	{name: "repair",
		before: func(n *node) { n.write(services(service("sticky", stickySpec, "TCP", 1, 2))...) },
		do: func(n *node) {
			m := n.tables()[0].Set("services")
			n.apply(nft.Change{Op: nft.Delete, Object: nft.Elements{Set: m, List: m.Elements[:2]}})
		}},
	{name: "repair of a table", undone: true,
		before: func(n *node) { n.write(services(service("sticky", stickySpec, "TCP", 1, 2))...) },
		do:     func(n *node) { n.apply(nft.Diff(n.tables()[1:], nil)...) }},
	{name: "forgetting",
		before: func(n *node) {
			n.write(services(service("sticky", stickySpec, "TCP", 1, 2), service("sticky2", "clusterIP: 10.96.2.7, sessionAffinity: ClientIP", "TCP", 1, 2))...)
			n.rest()
			n.addClients("affinity/test/sticky/tcp/p", 1500)
			n.addClients("affinity/test/sticky2/tcp/p", 300)
		},
		do: func(n *node) {
			n.write(services(service("sticky", stickySpec, "TCP", 2), service("sticky2", "clusterIP: 10.96.2.7, sessionAffinity: ClientIP", "TCP", 2))...)
		}},
	{name: "conntrack",
		before: func(n *node) {
			n.write(services(service("dns", dnsSpec, "UDP", 1, 2))...)
			n.rest()
			for _, f := range n.udpFlows() {
				if err := n.flows.Delete(f); err != nil {
					n.t.Fatal(err)
				}
			}
			n.addFlows("10.96.2.2:80", "10.244.1.1:8080", 5)
			n.addFlows("10.96.2.2:80", "10.244.1.2:8080", 3)
		},
		do: func(n *node) { n.write(services(service("dns", dnsSpec, "UDP", 2))...) }},
}

// addClients adds clients to an affinity map, every second one with each of the two endpoints.
func (n *node) addClients(name string, count int) {
	n.t.Helper()
	tables := n.tables()
	var m *nft.Set
	if len(tables) == 0 || tables[0].Set(name) == nil {
		n.t.Fatalf("no map %s", name)
	}
	m = tables[0].Set(name)
	have := make(map[nft.Value]bool)
	for _, e := range m.Elements {
		have[e.Key] = true
	}
	var clients []nft.Element
	for i := range count {
		key := nft.Addr(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}))
		if !have[key] {
			clients = append(clients, nft.Element{Key: key, Data: nft.Addr(netip.AddrFrom4([4]byte{10, 244, 1, byte(1 + i%2)})) + nft.Port(8080)})
		}
	}
	n.apply(nft.Change{Op: nft.Add, Object: nft.Elements{Set: m, List: clients}})
}

// innocent fails the test if a Service was quarantined.
func (n *node) innocent(what string) {
	n.t.Helper()
	if lines := n.process.Log.Lines("the kernel refuses"); len(lines) > 0 {
		n.t.Fatalf("%s: %s", what, lines)
	}
}

// TestFaults: whichever call fails, and whatever the error, the daemon reaches the state that it reaches undisturbed, and no
// Service is quarantined.
func TestFaults(t *testing.T) {
	for _, p := range phases {
		t.Run(p.name, func(t *testing.T) {
			n := newNode(t)
			n.write(services()...)
			n.start(nil)
			defer n.stop()
			n.rest()
			calls, want := p.undisturbed(n)
			t.Logf("%d sends, %d receives", calls[send], calls[receive])
			n.tryAll(t, calls, func(f oneFault) (failed int) {
				if !p.undone {
					p.before(n)
					n.rest()
				}
				n.set(nth(f.call, f.n, f.errno))
				p.do(n)
				_, failed = n.reach(f.String(), want)
				n.innocent(f.String())
				return failed
			})
		})
	}
}

// tryAll tries the selected faults of a phase with these calls, each as a subtest, by whose name it can be repeated alone. try returns
// the number of calls that failed: none, if the phase had fewer calls than usual.
func (n *node) tryAll(t *testing.T, calls [2]int, try func(oneFault) (failed int)) {
	t.Helper()
	defer func() { n.t = t }()
	tried, ran, faults := make(map[string]int), 0, selected(calls)
	for _, f := range faults {
		t.Run(f.String(), func(t *testing.T) {
			n.t = t
			ran++
			if try(f) > 0 {
				tried[fmt.Sprintf("%s %s", f.call, name(f.errno))]++
			}
		})
	}
	t.Logf("faults: %v", tried)
	if ran == len(faults) && len(tried) < 8 {
		t.Errorf("not every error was tried: %v", tried)
	}
}

// undisturbed returns the calls of a phase without faults and the state to which it leads. It repeats the phase until two runs agree:
// on a busy machine the daemon can seem to be at rest too early.
func (p phase) undisturbed(n *node) (calls [2]int, state string) {
	n.t.Helper()
	for before := ""; ; before = state {
		p.before(n)
		n.rest()
		n.set(nil)
		p.do(n)
		calls, _ = n.settle()
		n.innocent("undisturbed")
		if state = n.state(); state == before && calls[send] > 0 {
			return calls, state
		}
	}
}

// TestFaultsAtStart is TestFaults for the start of the daemon: without tables, and over the tables of an earlier one.
func TestFaultsAtStart(t *testing.T) {
	for _, over := range []bool{false, true} {
		t.Run(fmt.Sprintf("over tables=%t", over), func(t *testing.T) {
			n := newNode(t)
			defer n.stop()
			manifests := services(service("sticky", stickySpec, "TCP", 1, 2), service("dns", dnsSpec, "UDP", 2))
			prepare := func() {
				n.stop()
				n.removeTables()
				if over {
					earlier := render.Tables(render.Update{Node: render.Node{Name: "node-a"}, Services: []render.Service{{
						ServiceName: render.ServiceName{Namespace: "test", Name: "earlier"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.2.9")},
						Ports: []render.Port{{Name: "p", Protocol: nft.TCP, Port: 80}}}}})
					n.apply(nft.Diff(nil, earlier)...)
				}
				n.addFlows("10.96.2.2:80", "10.244.1.1:8080", 5)
				n.addFlows("10.96.2.2:80", "10.244.1.2:8080", 3)
			}
			n.write(manifests...)
			prepare()
			n.start(nil)
			n.await("undisturbed", func(state string) bool {
				return strings.Contains(state, "10.96.2.2 . udp . 80 . 0 :") && strings.Contains(state, "\n2 guards\n") &&
					!strings.Contains(state, "answered by 10.244.1.1") && !strings.Contains(state, "10.96.2.9")
			})
			calls, _ := n.settle()
			want := n.state()
			t.Logf("%d sends, %d receives", calls[send], calls[receive])
			n.tryAll(t, calls, func(f oneFault) (failed int) {
				prepare()
				defer n.stop()
				n.start(nth(f.call, f.n, f.errno))
				_, failed = n.reach(f.String(), want)
				n.innocent(f.String())
				return failed
			})
		})
	}
}

// oneFault is a fault to try.
type oneFault struct {
	call  call
	n     int
	errno syscall.Errno
}

func (f oneFault) String() string {
	return fmt.Sprintf("%s %d fails with %s", f.call, f.n, name(f.errno))
}

func name(errno syscall.Errno) string { return unix.ErrnoName(errno) }

// selected returns the faults to try: every error at every call, or, unless all are asked for, one error at every call of the first
// ones and at some of the others.
func selected(calls [2]int) (list []oneFault) {
	for _, c := range []call{send, receive} {
		for n := 1; n <= calls[c]; n++ {
			for i, errno := range errnos {
				if *all || n <= 4 && (n+i)%2 == 0 || n%8 == 0 && i == n/8%4 {
					list = append(list, oneFault{c, n, errno})
				}
			}
		}
	}
	return list
}

// TestFaultsOfRefusal: whichever receive fails while the kernel refuses the rules of a Service, the refusal is not taken for a commit:
// the Service that comes in the same change is programmed, and only the refused one is quarantined.
func TestFaultsOfRefusal(t *testing.T) {
	n := newNode(t)
	defer n.stop()
	refused := strings.Repeat("long", 60) // its affinity map has too long a name (NFT_SET_MAXNAMELEN)
	n.write(services()...)
	n.start(nil)
	n.await("the first load", func(state string) bool { return strings.Contains(state, "10.96.1.5") })
	failures := 0
	for number := 1; number <= 6; number++ {
		for _, errno := range errnos {
			n.write(services()...)
			n.await("the state before", func(state string) bool { return !strings.Contains(state, "10.96.2.") })
			n.set(nth(receive, number, errno))
			n.write(services(service(refused, "clusterIP: 10.96.2.1, sessionAffinity: ClientIP", "TCP", 1), service("new", "clusterIP: 10.96.2.6", "TCP", 1, 2))...)
			n.await(fmt.Sprintf("the new Service, if receive %d fails with %s", number, name(errno)), func(state string) bool {
				return strings.Contains(state, "10.96.2.6 . tcp . 80 . 1 :")
			})
			_, failed, _, _ := n.seen()
			failures += failed
			if strings.Contains(n.state(), "10.96.2.1") {
				t.Fatal("the kernel does not refuse the Service")
			}
		}
	}
	if got := n.quarantined(); len(got) != 1 || got[refused] == 0 {
		t.Errorf("quarantined: %v", got)
	}
	if failures < 20 {
		t.Errorf("%d calls failed", failures)
	}
}
