package kernel

import (
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestChainsInStages: while the chains of a Service are added and deleted, all its packets are translated.
func TestChainsInStages(t *testing.T) {
	const rounds, enough = 150, 100_000
	l, client := newFloodedNode(t, "203.0.113.4")
	one := service("s", nft.UDP, "10.96.0.1:80", "10.244.1.2:8080")
	one.LoadBalancerIPs = []netip.Addr{netip.MustParseAddr("203.0.113.4")}
	three := one
	three.Ports = []render.Port{one.Ports[0]}
	three.Ports[0].Endpoints = []render.Endpoint{endpoint("10.244.1.2:8080"), endpoint("10.244.1.2:8081"), endpoint("10.244.1.2:8082")}
	l.restart(one)
	stop := sendUntilStopped(t, client, "203.0.113.4:80")
	for range rounds {
		l.restart(three)
		l.restart(one)
	}
	if n := stop(); n > 0 {
		t.Errorf("%d packets were refused", n)
	}
	translated, untranslated := l.flooded()
	if untranslated > 0 {
		t.Errorf("%d packets passed untranslated", untranslated)
	}
	if translated < enough {
		t.Errorf("only %d packets were translated, want %d", translated, enough)
	}
}

// TestDeletionRefusesNothing: while other programs delete nfproxy's table, with a Service that has an endpoint, no packet is refused.
func TestDeletionRefusesNothing(t *testing.T) {
	const deletions, enough = 300, 20_000
	l, client := newFloodedNode(t, "10.96.0.1")
	one := service("s", nft.UDP, "10.96.0.1:80", "10.244.1.2:8080")
	l.restart(one)
	stop := sendUntilStopped(t, client, "10.96.0.1:80")
	for range deletions {
		l.nft("", "delete", "table", "ip", "nfproxy")
		l.restart(one)
	}
	if n := stop(); n > 0 {
		t.Errorf("%d packets were refused", n)
	}
	if translated, _ := l.flooded(); translated < enough {
		t.Errorf("only %d packets were translated, want %d", translated, enough)
	}
}

// newFloodedNode returns a node with an endpoint, and a Pod that is to send packets to an address. Each packet is the first of a connection,
// because forward drops it before conntrack records the connection.
func newFloodedNode(t *testing.T, to string) (*testNode, *sandbox.Pod) {
	t.Helper()
	l := newTestNode(t).addNetwork()
	l.pod("endpoint", 0, "10.244.1.2")
	client := l.pod("client", 0, "10.244.9.9")
	l.nft(`table ip probe {
		counter untranslated {}
		counter translated {}
		chain forward {
			type filter hook forward priority filter;
			ip daddr `+to+` counter name untranslated drop
			counter name translated drop
		}
	}`, "-f", "-")
	return l, client
}

// flooded returns how many packets passed a node of newFloodedNode, by whether they were translated.
func (l *testNode) flooded() (translated, untranslated int) {
	l.t.Helper()
	counted := l.nft("", "list", "counters", "table", "ip", "probe")
	return packetsOf(l.t, counted, "translated"), packetsOf(l.t, counted, "untranslated")
}

// sendUntilStopped sends UDP packets from a Pod until the returned function is called, which returns how many times the client learnt
// that a packet was refused. The kernel limits the rate of ICMP errors.
func sendUntilStopped(t *testing.T, from *sandbox.Pod, to string) (stop func() (refused int)) {
	t.Helper()
	var stopped atomic.Bool
	var refused int
	var sending sync.WaitGroup
	sending.Go(func() {
		err := from.Do(func() error {
			c, err := net.Dial("udp4", to)
			if err != nil {
				return err
			}
			defer c.Close()
			for !stopped.Load() {
				_, err := c.Write([]byte("x"))
				if errors.Is(err, syscall.ECONNREFUSED) {
					refused++
				} else if err != nil && !errors.Is(err, syscall.ENOBUFS) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	return func() int {
		stopped.Store(true)
		sending.Wait()
		return refused
	}
}

// packetsOf returns the packets of a counter that nft lists.
func packetsOf(t testing.TB, listing, counter string) int {
	t.Helper()
	found := regexp.MustCompile(`counter ` + counter + ` \{\s*packets (\d+)`).FindStringSubmatch(listing)
	if found == nil {
		t.Fatalf("no counter %s in %s", counter, listing)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRefusedStage: if the kernel refuses the main transaction, the chains and maps that were added for it are deleted again, and the
// next attempt adds them once.
func TestRefusedStage(t *testing.T) {
	l := newTestNode(t)
	l.restart(service("plain", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080"))
	before := l.tables()
	sticky := service("sticky", nft.TCP, "10.96.0.2:80", "10.244.1.2:8080", "10.244.1.3:8080", "10.244.1.4:8080")
	sticky.Affinity = time.Hour
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{sticky}})
	changes := l.ruleset.Plan()
	broken := make([]nft.Change, len(changes))
	copy(broken, changes)
	for i, ch := range broken {
		if e, ok := ch.Object.(nft.Elements); ok && e.Set.Name == "services" {
			wrong := nft.Element{Key: e.List[0].Key, Data: nft.GotoChain("no-such-chain").Value()}
			broken[i].Object = nft.Elements{Set: e.Set, List: []nft.Element{wrong}}
		}
	}
	generation := l.generation()
	var refusal *kernel.ChangeError
	if err := l.kernel.Apply(broken, generation); !errors.As(err, &refusal) || !errors.Is(err, syscall.ENOENT) {
		t.Fatalf("Apply: %v, want a refusal with ENOENT", err)
	}
	if rest := nft.Diff(l.tables(), before); len(rest) > 0 {
		t.Fatalf("of refused changes remain: %v", rest)
	}
	if err := l.kernel.Apply(changes, generation); !errors.Is(err, kernel.ErrStale) {
		t.Fatalf("Apply: %v, want %v", err, kernel.ErrStale)
	}
	if err := l.kernel.Apply(changes, l.generation()); err != nil {
		t.Fatal(err)
	}
	l.ruleset.Accept()
	if rest := nft.Diff(l.tables(), l.ruleset.Tables()); len(rest) > 0 {
		t.Errorf("the kernel differs by %v", rest)
	}
}

// TestStages: chains and maps are added before the elements that lead to them, and deleted after them.
func TestStages(t *testing.T) {
	l := newTestNode(t)
	l.restart(service("plain", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080"))
	sticky := service("sticky", nft.TCP, "10.96.0.2:80", "10.244.1.2:8080")
	sticky.Affinity = time.Hour
	for _, step := range []struct {
		name   string
		update render.Update
		want   uint32
	}{
		{"a Service without chains", render.Update{Services: []render.Service{service("s", nft.TCP, "10.96.0.3:80", "10.244.1.2:8080")}}, 1},
		{"a Service with chains", render.Update{Services: []render.Service{sticky}}, 2},
		{"its deletion", render.Update{Removed: []render.ServiceName{sticky.ServiceName}}, 2},
	} {
		before := l.generation()
		l.apply(step.update)
		if got := l.generation() - before; got != step.want {
			t.Errorf("%s takes %d transactions, want %d", step.name, got, step.want)
		}
	}
	if listing := l.nft("", "list", "ruleset"); strings.Contains(listing, "sticky") {
		t.Errorf("objects of the deleted Service are left:\n%s", listing)
	}
}
