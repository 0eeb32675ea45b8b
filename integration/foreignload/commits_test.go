package foreignload

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// committer commits to a table of its own, until stop, at a rate per second.
type committer struct {
	t       *testing.T
	quit    chan struct{}
	running sync.WaitGroup
	commits int
}

func startCommitter(t *testing.T, rate int) *committer {
	t.Helper()
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	table := &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "other"}}
	set := &nft.Set{Table: table.TableID, Name: "s", Key: []nft.Type{nft.IPv4Addr}}
	if err := k.Apply([]nft.Change{{Op: nft.Add, Object: table}, {Op: nft.Add, Object: set}}, 0); err != nil {
		t.Fatal(err)
	}
	c := &committer{t: t, quit: make(chan struct{})}
	c.running.Go(func() {
		defer k.Close()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		element := nft.Elements{Set: set, List: []nft.Element{{Key: nft.Addr(netip.MustParseAddr("10.0.0.1"))}}}
		for op := nft.Add; ; op = nft.Add + nft.Delete - op {
			if err := k.Apply([]nft.Change{{Op: op, Object: element}}, 0); err != nil {
				t.Error(err)
				return
			}
			c.commits++
			select {
			case <-tick.C:
			case <-c.quit:
				if err := k.Apply([]nft.Change{{Op: nft.Delete, Object: table}}, 0); err != nil {
					t.Error(err)
				}
				return
			}
		}
	})
	return c
}

// stop ends the committer and returns the number of its commits.
func (c *committer) stop() int {
	close(c.quit)
	c.running.Wait()
	return c.commits
}

// TestForeignCommits: while another program commits to its own tables, from once to 1,000 times a second, nfproxy starts,
// programs changes, and repairs what is deleted; its tables become as desired, and no connection fails.
func TestForeignCommits(t *testing.T) {
	for _, rate := range []int{1, 10, 100, 1000} {
		t.Run(fmt.Sprintf("%d a second", rate), func(t *testing.T) {
			n := newNode(t)
			foreign := startCommitter(t, rate)
			n.start()
			n.awaitServed(steady)
			calm := n.awaitServed(other)
			clients := n.clients()
			clients.AwaitMore(t, 20)
			changes := 0
			for begin := time.Now(); changes < 10 || time.Since(begin) < 2*time.Second; changes++ { // the Service "more" comes
				at := fmt.Sprintf("10.96.0.3:%d", 80+changes)
				n.write("more.yaml", manifest("more", at, "10.244.1.2"))
				n.awaitServed(at)
			}
			n.write("more.yaml", "")
			n.awaitText(calm)
			if n.repairs() != 0 {
				t.Errorf("%d repairs of commits that were not about nfproxy's tables", n.repairs())
			}
			deleted := n.deleteElements(3)
			n.awaitText(calm)
			connections := n.wantNoFailure(clients)
			t.Logf("%d foreign commits, %d changes, %d deleted elements, %d connections", foreign.stop(), changes, deleted, connections)
			n.stop()
		})
	}
}

// deleteElements deletes elements of other Services than steady, one in a transaction.
func (n *loadedNode) deleteElements(count int) (deleted int) {
	n.t.Helper()
	spared := netip.MustParseAddrPort(steady)
	for range count {
		var all []nft.Elements
		for _, t := range n.tables() {
			for _, s := range t.Sets {
				for _, e := range s.Elements {
					fields := e.Key.Fields(s.Key)
					if len(fields) >= 3 && fields[0].Addr() != spared.Addr() && fields[2].Uint16() != 30001 {
						all = append(all, nft.Elements{Set: s, List: []nft.Element{e}})
					}
				}
			}
		}
		if len(all) == 0 { // a repair is in progress
			continue
		}
		switch err := n.kernel.Apply([]nft.Change{{Op: nft.Delete, Object: all[rand.IntN(len(all))]}}, 0); {
		case err == nil:
			deleted++
		case !errors.Is(err, unix.ENOENT):
			n.t.Fatal(err)
		}
	}
	return deleted
}
