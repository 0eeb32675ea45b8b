package foreignload

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// TestDeletedElements: another program deletes elements of Services, fifty a second. All come back, and no connection
// through a Service fails whose elements were not deleted; there are no more repairs than deletions.
func TestDeletedElements(t *testing.T) {
	n := newNode(t)
	n.start()
	n.awaitServed(steady)
	calm := n.awaitServed(other)
	clients := n.clients()
	clients.AwaitMore(t, 20)
	deleted := 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		deleted += n.deleteElements(1)
	}
	n.awaitText(calm)
	connections := n.wantNoFailure(clients)
	t.Logf("%d elements deleted, %d repairs, %d connections", deleted, n.repairs(), connections)
	if deleted == 0 || n.repairs() == 0 || n.repairs() > deleted {
		t.Errorf("%d repairs of %d deletions", n.repairs(), deleted)
	}
	n.stop()
}

// TestDeletedObjects: another program deletes tables, chains with their rules, rules, sets, and the elements of sets. The
// tables become as desired after each deletion, and Services are served.
func TestDeletedObjects(t *testing.T) {
	n := newNode(t)
	n.start()
	n.awaitServed(steady)
	calm := n.awaitServed(other)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	deleted := make(map[string]int)
	for i := range 40 {
		kind, changes := n.randomDeletion(random, i)
		switch err := n.kernel.Apply(changes, 0); {
		case err == nil:
			deleted[kind]++
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT): // in use, or a repair is in progress
			t.Fatal(err)
		}
		if random.IntN(2) == 0 { // else the next deletion comes during the repair
			n.awaitText(calm)
		}
	}
	n.awaitText(calm)
	clients := n.clients()
	t.Logf("deleted %v, %d repairs, %d connections afterwards", deleted, n.repairs(), n.wantNoFailure(clients))
	if len(deleted) < 4 {
		t.Errorf("only %v were deleted", deleted)
	}
	n.stop()
}

// randomDeletion returns a transaction that deletes something, of another kind each time, and what it is. Rules that lead to a deleted chain or set are
// deleted with it.
func (n *loadedNode) randomDeletion(random *rand.Rand, i int) (kind string, changes []nft.Change) {
	tables := n.tables()
	if len(tables) == 0 {
		return "nothing", nil
	}
	t := tables[random.IntN(len(tables))]
	if len(t.Chains) == 0 || len(t.Sets) == 0 {
		return "table", []nft.Change{{Op: nft.Delete, Object: t}}
	}
	c, s := t.Chains[random.IntN(len(t.Chains))], t.Sets[random.IntN(len(t.Sets))]
	flush := nft.Change{Op: nft.Delete, Object: nft.Rules{Chain: c}}
	switch i % 6 {
	case 0:
		return "table", []nft.Change{{Op: nft.Delete, Object: t}}
	case 1:
		return "rules", []nft.Change{flush}
	case 2:
		return "chain", []nft.Change{flush, {Op: nft.Delete, Object: c}}
	case 3:
		for _, c := range t.Chains { // no set is in use then
			changes = append(changes, nft.Change{Op: nft.Delete, Object: nft.Rules{Chain: c}})
		}
		return "set", append(changes, nft.Change{Op: nft.Delete, Object: s})
	default:
		return "elements", []nft.Change{{Op: nft.Delete, Object: nft.Elements{Set: s, List: s.Elements}}}
	}
}
