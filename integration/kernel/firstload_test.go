package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
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
		timeout := 20 * time.Millisecond
		select {
		case <-loaded:
			timeout = connectTimeout
		default:
		}
		got, err := connect(pod.Namespace, nft.UDP, "", "10.96.0.1:80", timeout)
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

// TestLoadInParts: a first load of many elements takes a transaction for each 10,000 of them, and one for the base chains. Tables
// that are in use get all their changes in one transaction.
func TestLoadInParts(t *testing.T) {
	l := newTestNode(t)
	commits := func(services int) (transactions uint32, elements int) {
		before := l.generation()
		changes := l.apply(render.Update{Services: cluster(services)})
		return l.generation() - before, nft.ElementOperations(changes)
	}
	l.ruleset.Observe(nil)
	if got, elements := commits(6_000); elements <= 30_000 || elements > 40_000 || got != 4+1 {
		t.Errorf("a first load of %d elements takes %d transactions, want 5", elements, got)
	}
	if got, elements := commits(12_000); elements < 30_000 || got != 1 {
		t.Errorf("%d more elements take %d transactions, want 1", elements, got)
	}
}

// TestRefusedPart: if the kernel refuses a late part of a first load, the error names the element at fault, on old kernels
// those of its message, and nothing is left of the earlier parts.
func TestRefusedPart(t *testing.T) {
	l := newTestNode(t)
	load := func() []nft.Change {
		l.ruleset = render.NewRuleset(l.facts)
		l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(6_000)})
		l.ruleset.Observe(nil)
		changes := l.ruleset.Plan()
		last := slices.IndexFunc(changes, func(c nft.Change) bool {
			e, ok := c.Object.(nft.Elements)
			return ok && e.Set.Name == "services"
		})
		e := changes[last].Object.(nft.Elements)
		e.List = append(slices.Clone(e.List), nft.Element{Key: "\xff\xff\xff\xff\x06\x00\x50", Data: nft.GotoChain("no-such-chain").Value()})
		changes[last].Object = e
		return changes
	}
	var refusal *kernel.ChangeError
	err := l.kernel.Apply(load(), 0)
	if !errors.As(err, &refusal) || !errors.Is(err, syscall.ENOENT) {
		t.Fatalf("Apply: %v, want a refusal with ENOENT", err)
	}
	atFault := func(e nft.Element) bool { return e.Data.Verdict().Chain == "no-such-chain" }
	if e, ok := refusal.Change.Object.(nft.Elements); !ok || !slices.ContainsFunc(e.List, atFault) {
		t.Errorf("the error does not name the element at fault, but %s", refusal.Change.Summary())
	}
	if tables := l.tables(); len(tables) > 0 {
		t.Errorf("tables are left: %v", tables)
	}
}

// TestInterruptedLoad: the tables of a first load that ended between two parts, without base chains and with a part of the elements,
// are completed by the next start.
func TestInterruptedLoad(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(1000)})
	l.ruleset.Observe(nil)
	var part []nft.Change
	for _, c := range l.ruleset.Plan() {
		e, elements := c.Object.(nft.Elements)
		switch chain := c.Chain(); {
		case elements:
			part = append(part, nft.Change{Op: c.Op, Object: nft.Elements{Set: e.Set, List: e.List[:(len(e.List)+1)/2]}})
		case chain == nil || chain.Hook == nft.NoHook:
			part = append(part, c)
		}
	}
	if err := l.kernel.Apply(part, 0); err != nil {
		t.Fatal(err)
	}
	l.ruleset = render.NewRuleset(l.facts)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(1000)})
	l.reconcile()
	if rest := nft.Diff(l.tables(), l.ruleset.Tables()); len(rest) > 0 {
		t.Errorf("the kernel differs by %v", rest)
	}
	if got := len(l.tables()[0].Set("endpoints").Elements); got != 3000 {
		t.Errorf("%d endpoints, want 3000", got)
	}
}
