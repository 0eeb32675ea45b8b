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
