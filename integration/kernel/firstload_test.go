package kernel

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestFirstLoad: the first connections through new tables are treated like all later ones. A pod connects all the time while the
// tables are loaded, and the endpoint always sees the pod, not the node.
func TestFirstLoad(t *testing.T) {
	const services, rounds, clients = 20_000, 4, 4
	l := newTestNode(t).addNetwork()
	pod := l.pod("pod", 0, "10.244.1.9")
	l.pod("endpoint", 8080, "10.244.1.2")
	all := []render.Service{service("real", nft.UDP, "10.96.0.1:80", "10.244.1.2:8080")}
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		all = append(all, service(name, nft.UDP, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(1 + i>>8), byte(i)}), 80).String(),
			"10.244.1.2:8080", "10.244.1.3:8080"))
	}
	for range rounds {
		var connecting sync.WaitGroup
		loaded := make(chan struct{})
		for range clients {
			connecting.Go(func() { connectUntil(t, pod, loaded) })
		}
		l.ruleset = render.NewRuleset(l.facts)
		l.ruleset.Update(render.Update{Node: l.facts, Services: all})
		l.reconcile()
		close(loaded)
		connecting.Wait()
		if err := l.kernel.Apply(nft.Diff(l.tables(), nil), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// connectUntil connects until twenty connections have been served and fails the test if the endpoint sees another source than
// the pod. Once the tables are loaded, twenty failures are an error as well.
func connectUntil(t *testing.T, pod *sandbox.Pod, loaded <-chan struct{}) {
	const enough = 20
	for served, failed := 0, 0; served < enough; {
		got, err := connect(pod.Namespace, nft.UDP, "", "10.96.0.1:80", 20*time.Millisecond)
		switch {
		case err == nil && got.source.Addr() != pod.Addrs[0]:
			t.Errorf("connection %d: the endpoint saw %s", served+1, got.source.Addr())
			return
		case err == nil:
			served++
		case failed == enough:
			t.Error(err)
			return
		default:
			select {
			case <-loaded:
				failed++
			default:
			}
		}
	}
}
