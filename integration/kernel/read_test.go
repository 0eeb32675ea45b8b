package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// commitContinually has another program commit in the node's namespace, until the returned function is called, which returns
// the number of commits. The program adds and deletes a table with chains.
func (l *testNode) commitContinually(chains int) (stop func() int) {
	l.t.Helper()
	foreign := openKernel(l.t, l.node)
	other := &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "another"}}
	for i := range chains {
		other.Chains = append(other.Chains, &nft.Chain{Table: other.TableID, Name: fmt.Sprint("chain-", i)})
	}
	var commits atomic.Int64
	ended, done := make(chan bool), make(chan bool)
	go func() {
		defer close(done)
		for from, to := []*nft.Table(nil), []*nft.Table{other}; ; from, to = to, from {
			select {
			case <-ended:
				return
			default:
			}
			if err := foreign.Apply(nft.Diff(from, to), 0); err != nil {
				l.t.Error(err)
				return
			}
			commits.Add(1)
		}
	}()
	return func() int {
		close(ended)
		<-done
		return int(commits.Load())
	}
}

// TestReadUnderCommits: while another program commits all the time, to its own table, nfproxy's tables are read completely, and
// in a bounded number of passes.
func TestReadUnderCommits(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(2000)})
	l.reconcile()
	want := fmt.Sprint(l.tables())
	stop := l.commitContinually(50)
	for range 5 {
		if got := fmt.Sprint(l.tables()); got != want {
			t.Errorf("%d bytes of tables are read, not %d", len(got), len(want))
		}
	}
	commits := stop()
	t.Logf("%d commits during 5 reads", commits)
	if commits == 0 {
		t.Error("no commit")
	}
}

// TestReadChains: a listing of many chains, which the kernel returns in parts, misses none while another program adds and deletes
// chains.
func TestReadChains(t *testing.T) {
	l := newTestNode(t)
	services := make([]render.Service, 1000) // each has a chain of its own
	for i := range services {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)
		services[i] = service(fmt.Sprint("s", i), nft.TCP, addr.String(), "10.244.1.2:80")
		services[i].Affinity = time.Hour
	}
	l.ruleset.Update(render.Update{Node: l.facts, Services: services})
	l.reconcile()
	want := fmt.Sprint(l.tables())
	stop := l.commitContinually(100)
	for range 10 {
		if got := fmt.Sprint(l.tables()); got != want {
			t.Errorf("%d bytes of tables are read, not %d", len(got), len(want))
		}
	}
	t.Logf("%d commits", stop())
}

// TestReadDuringRehash: the kernel resizes the hash table of a set after a commit has added many elements, and a listing at that
// moment misses none.
func TestReadDuringRehash(t *testing.T) {
	l := newTestNode(t)
	id := nft.TableID{Family: nft.IPv4, Name: "nfproxy"}
	s := &nft.Set{Table: id, Name: "many", Key: []nft.Type{nft.IPv4Addr}}
	empty := &nft.Table{TableID: id, Sets: []*nft.Set{s}}
	const elements = 50_000
	for i := range elements {
		s.Elements = append(s.Elements, nft.Element{Key: nft.Addr(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))})
	}
	all := s.Elements
	for round := range 10 {
		s.Elements = all[:1]
		if err := l.kernel.Apply(nft.Diff(nil, []*nft.Table{empty}), 0); err != nil {
			t.Fatal(err)
		}
		add := nft.Change{Op: nft.Add, Object: nft.Elements{Set: s, List: all[1:]}}
		if err := l.kernel.Apply([]nft.Change{add}, 0); err != nil {
			t.Fatal(err)
		}
		tables := l.tables()
		got := tables[0].Set("many").Elements
		same := func(a, b nft.Element) bool { return a.Key == b.Key }
		if !slices.EqualFunc(got, all, same) {
			t.Errorf("round %d: %d elements are read, not %d", round, len(got), len(all))
		}
		if err := l.kernel.Apply(nft.Diff(tables, nil), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadReachable: if the kernel does not count the elements of sets, ReadReachable leaves out slots to which no frontend leads, and
// ChangedSinceRead asks for another Read, which finds them. If it counts them, ReadReachable finds them too.
func TestReadReachable(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(100)})
	l.reconcile()
	l.nft("", "add", "element", "ip", "nfproxy", "endpoints", "{ 10.96.9.9 . tcp . 80 . 0 : 10.0.0.1 . 80 }")
	for _, c := range []struct {
		without bool
		read    func(...nft.TableID) ([]*nft.Table, uint32, error)
		slots   int
		changed bool
	}{
		{false, l.kernel.ReadReachable, 301, false},
		{true, l.kernel.ReadReachable, 300, true},
		{true, l.kernel.Read, 301, false},
		{false, l.kernel.Read, 301, false},
	} {
		l.kernel.WithoutCounts = c.without
		tables, _, err := c.read(render.Instance{}.TableIDs()...)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(tables[0].Set("endpoints").Elements); got != c.slots {
			t.Errorf("without counts: %t: %d slots, want %d", c.without, got, c.slots)
		}
		if changed, err := l.kernel.ChangedSinceRead(); err != nil || changed != c.changed {
			t.Errorf("without counts: %t: changed since read: %t, %v, want %t", c.without, changed, err, c.changed)
		}
	}
}

// TestReadElements: of many keys those that exist are found, wherever the others are among them, in a bounded number of requests.
func TestReadElements(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(1000)})
	l.reconcile()
	s := render.SchemaOf(nft.IPv4).Endpoints
	asked := nft.Elements{Set: s}
	for i := range 1000 {
		frontend := render.Frontend{AddrPort: netip.AddrPortFrom(clusterService(i, 3, 0).ClusterIPs[0], 80), Protocol: nft.TCP}
		for slot := range uint16(3 + i%3) { // none, one or two of them do not exist
			asked.List = append(asked.List, nft.Element{Key: frontend.Key() + nft.Slot(slot)})
		}
	}
	before := l.kernel.Traffic()
	found, err := l.kernel.ReadElements(asked)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 3000 {
		t.Errorf("%d elements are found, not 3000", len(found))
	}
	for _, e := range found {
		if len(e.Data) == 0 {
			t.Errorf("element %x has no data", e.Key)
		}
	}
	// One message for each 16 keys and one for each key that does not exist, 16 in a datagram.
	if sends := l.kernel.Traffic().Sends - before.Sends; sends > (4000/16+1000)/16+20 {
		t.Errorf("%d requests for %d keys", sends, len(asked.List))
	}
	none, err := l.kernel.ReadElements(nft.Elements{Set: s, List: []nft.Element{{Key: "\x00\x00\x00\x00\x06\x00\x50\x00\x00"}}})
	if err != nil || len(none) > 0 {
		t.Errorf("of an element that does not exist %v is found: %v", none, err)
	}
}
