package kernel

import (
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// earlierTables are the tables of earlierServices as nft lists them on node-a. The version that wrote them, of November 2026, had a
// balancing chain for each number of endpoints.
const earlierTables = "testdata/chain-per-count.nft"

// earlierServices returns one Service for each place in which a verdict to a balancing chain can be.
func earlierServices() []render.Service {
	three := []string{"10.244.1.2:8080", "10.244.1.3:8080", "10.244.1.4:8080"}
	plain, single := service("plain", nft.TCP, "10.96.0.1:80", three...), service("single", nft.TCP, "10.96.0.2:80", three[0])
	sticky := service("sticky", nft.TCP, "10.96.0.3:80", three...)
	sticky.Affinity = time.Hour
	local := service("local", nft.TCP, "10.96.0.4:80", three...)
	local.ExternalLocal, local.LoadBalancerIPs = true, []netip.Addr{netip.MustParseAddr("203.0.113.4")}
	local.SourceRanges = prefixes("10.244.0.0/16")
	return []render.Service{plain, single, sticky, local}
}

// TestUpgradeChains: tables of the version before the sizes of balancing chains became powers of two are changed in place, and so
// are the tables on the way back. No connection fails, remembered clients keep their endpoints, and counters continue.
func TestUpgradeChains(t *testing.T) {
	const rounds = 10
	l := newTestNode(t).addNetwork()
	for _, addr := range []string{"10.244.1.2", "10.244.1.3", "10.244.1.4"} {
		l.pod(addr, 8080, addr)
	}
	client := l.pod("client", 0, "10.244.9.9")
	text, err := os.ReadFile(earlierTables)
	if err != nil {
		t.Fatal(err)
	}
	l.nft(string(text), "-f", "-")
	earlier := l.tables()
	if earlier[0].Chain("lb-3") == nil || earlier[0].Chain("lb-1") == nil {
		t.Fatalf("%s has no chain for each number of endpoints", earlierTables)
	}
	frontends := []string{"10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80", "10.96.0.4:80", "203.0.113.4:80"}
	first, err := connect(client.Namespace, nft.TCP, "", frontends[2], connectTimeout)
	if err != nil {
		t.Fatal(err)
	}

	done, failed := make(chan struct{}), make(chan error, len(frontends))
	for _, to := range frontends {
		go func() {
			failed <- repeatUntil(done, func() error {
				got, err := connect(client.Namespace, nft.TCP, "", to, connectTimeout)
				if err == nil && to == frontends[2] && got.endpoint != first.endpoint {
					t.Errorf("the client of %v reached %v", first.endpoint, got.endpoint)
				}
				return err
			})
		}()
	}
	counted := uint64(0)
	for range rounds {
		l.ruleset = render.NewRuleset(l.facts)
		l.ruleset.Update(render.Update{Node: l.facts, Services: earlierServices()})
		checkInPlace(t, l.reconcile())
		tables := l.tables()
		if rest := nft.Diff(tables, l.ruleset.Tables()); len(rest) > 0 {
			t.Fatalf("after the upgrade the kernel differs by %v", rest)
		}
		e, _ := tables[0].Set("services").Lookup(tables[0].Set("services").Elements[0].Key)
		if e.Counter == nil || e.Counter.Packets < counted {
			t.Errorf("the counter went from %d to %+v", counted, e.Counter)
		}
		counted = e.Counter.Packets
		time.Sleep(20 * time.Millisecond)
		back := slices.DeleteFunc(nft.Diff(tables, earlier), func(c nft.Change) bool { _, dynamic := c.Object.(nft.DynamicElements); return dynamic })
		checkInPlace(t, back)
		if err := l.kernel.Apply(back, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	close(done)
	for range frontends {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if counted == 0 {
		t.Error("no connection was counted")
	}
}

// checkInPlace fails the test if changes replace a table or a map. The map of refusals comes and goes: the earlier version has none.
func checkInPlace(t *testing.T, changes []nft.Change) {
	t.Helper()
	if len(changes) == 0 {
		t.Error("nothing changes")
	}
	for _, c := range changes {
		switch o := c.Object.(type) {
		case *nft.Set:
			if o.Name != render.SchemaOf(o.Table.Family).Refusals.Name {
				t.Errorf("not in place: %s", c.Summary())
			}
		case *nft.Table, nft.DynamicElements:
			t.Errorf("not in place: %s", c.Summary())
		}
	}
}

// repeatUntil repeats connect until done is closed, and returns the first error.
func repeatUntil(done chan struct{}, connect func() error) error {
	for {
		select {
		case <-done:
			return nil
		default:
		}
		if err := connect(); err != nil {
			return err
		}
	}
}
