package kernel

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// TestErrorsNameTheChange: an error of the kernel names the change down to the element, and no change of the batch is applied.
func TestErrorsNameTheChange(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
	l.reconcile()
	before := tablesText(l.tables())
	table := l.tables()[0]
	services, clusterIPs := table.Set("services"), table.Set("cluster-ips")
	key := func(port uint16) nft.Value {
		return nft.Addr(netip.MustParseAddr("10.96.9.9")) + nft.Proto(nft.TCP) + nft.Port(port)
	}
	var many []nft.Element // more than fit into one message
	for port := range uint16(3000) {
		many = append(many, nft.Element{Key: key(port), Data: nft.GotoChain("refuse").Value()})
	}
	many[2500].Data = nft.GotoChain("nowhere").Value()
	fine := nft.Change{Op: nft.Add, Object: nft.Elements{Set: clusterIPs,
		List: []nft.Element{{Key: nft.Addr(netip.MustParseAddr("10.96.200.1"))}}}}
	for name, c := range map[string]struct {
		change nft.Change
		want   string
		cause  error
		named  bool // the kernel has to name the element in the message
	}{
		"a verdict to a missing chain, among many elements": {nft.Change{Op: nft.Add, Object: nft.Elements{Set: services, List: many}},
			"add element ip nfproxy services { 10.96.9.9 . tcp . 2500 : goto nowhere }", syscall.ENOENT, true},
		"an element that exists": {nft.Change{Op: nft.Add, Object: nft.Elements{Set: services, List: services.Elements[1:2]}},
			"add element ip nfproxy services { 10.96.0.3 . tcp . 443", syscall.EEXIST, false},
		"an element that does not exist": {nft.Change{Op: nft.Delete, Object: nft.Elements{Set: services,
			List: []nft.Element{services.Elements[0], {Key: key(1)}}}},
			"delete element ip nfproxy services { 10.96.9.9 . tcp . 1 }", syscall.ENOENT, true},
		"a chain in use": {nft.Change{Op: nft.Delete, Object: table.Chain("refuse")}, "delete chain ip nfproxy refuse", syscall.EBUSY, false},
		"a rule with a missing set": {nft.Change{Op: nft.Add, Object: nft.Rules{Chain: &nft.Chain{Table: table.TableID, Name: "refuse",
			Rules: []nft.Rule{{Do: nft.Reject{}}, {Match: []nft.Match{nft.In{Key: []nft.Field{{Kind: nft.SourceAddr}}, Set: "nosuch"}}, Do: nft.Reject{}}}}}},
			"add rule ip nfproxy refuse ip saddr @nosuch reject", syscall.ENOENT, false},
		"a table that does not exist": {nft.Change{Op: nft.Delete, Object: &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "gone"}}},
			"delete table ip gone", syscall.ENOENT, false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.named {
				requireLinux(t, 6, 1, "the position of an element in an error")
			}
			changes := []nft.Change{fine, c.change}
			if c.change.Op == nft.Delete && c.change.Chain() != nil { // after other changes, it has a transaction of its own
				changes = changes[1:]
			}
			err := l.kernel.Apply(changes, 0)
			var named *kernel.ChangeError
			if !errors.As(err, &named) || !errors.Is(err, c.cause) || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s…: %v", err, c.want, c.cause)
			}
			if after := tablesText(l.tables()); after != before {
				t.Fatalf("the tables have changed to\n%s", after)
			}
		})
	}
}

// TestStaleBatch: the kernel rejects a batch as a whole if the ruleset has changed since it was read.
func TestStaleBatch(t *testing.T) {
	l := newTestNode(t)
	_, generation, err := l.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		t.Fatal(err)
	}
	l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
	l.ruleset.Observe(nil)
	changes := l.ruleset.Plan()
	l.nft("", "add", "table", "ip", "other")
	if err := l.kernel.Apply(changes, generation); !errors.Is(err, kernel.ErrStale) {
		t.Fatalf("got error %v, want %v", err, kernel.ErrStale)
	}
	if got := l.tables(); len(got) > 0 {
		t.Errorf("the batch was applied: %v", got)
	}
	if err := l.kernel.Apply(changes, 0); err != nil {
		t.Error(err)
	}
}

// TestCountersStay: the counter of a frontend keeps its value when the frontend's element is replaced.
func TestCountersStay(t *testing.T) {
	l := newTestNode(t).addNetwork()
	l.pod("a", 8080, "10.244.1.2")
	l.pod("b", 8080, "10.244.1.3")
	client := l.pod("client", 0, "10.244.9.9")
	one := service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080")
	two := service("s", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080", "10.244.1.3:8080")
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{one}})
	l.reconcile()
	for i := range 10 {
		for range 5 {
			if _, err := connect(client.Namespace, nft.TCP, "", "10.96.0.1:80", connectTimeout); err != nil {
				t.Fatal(err)
			}
		}
		l.apply(render.Update{Services: []render.Service{[]render.Service{two, one}[i%2]}})
		if got := l.tables()[0].Set("services").Elements[0].Counter; got == nil || got.Packets != uint64(5*(i+1)) {
			t.Fatalf("after %d connections the counter is %+v", 5*(i+1), got)
		}
	}
}
