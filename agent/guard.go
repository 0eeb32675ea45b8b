package agent

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// Guard keeps the kernel translating the connections whose translation has begun, whatever other programs do to our
// tables.
//
// When the last chain of type nat goes, the kernel stops translating altogether (nf_nat_unregister_fn in
// net/netfilter/nf_nat_core.c), and when the last rule that uses connection tracking goes, it stops tracking
// (nf_ct_netns_put in net/netfilter/nf_conntrack_proto.c). After `nft flush ruleset`, and until the tables are restored, an
// answer would therefore keep the endpoint's address, and its client would reset the connection. The Guard prevents this: it
// is one table for each family, with one chain of type nat and one rule that changes nothing, and it is owned by the
// Guard's socket, so that a flush by another program passes it over.
type Guard struct {
	conn *kernel.Conn
}

// GuardPrefix is how the names of the guard's tables begin; the port ID of the Guard's socket follows. Such a table exists
// for as long as its daemon runs.
const GuardPrefix = "nfproxy-guard-"

// guardAttempts is how often OpenGuard tries to add the tables while memory is short.
const guardAttempts = 3

// OpenGuard adds the guard's tables of some families to the calling thread's network namespace. It fails on kernels
// without tables that have owners (before Linux 5.12).
func OpenGuard(families ...nft.Family) (g *Guard, err error) {
	for range guardAttempts {
		if g, err = openGuardOnce(families); !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) {
			break
		}
	}
	return g, err
}

// openGuardOnce adds the tables. After an error there are none: they go with the socket.
func openGuardOnce(families []nft.Family) (*Guard, error) {
	c, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprint(GuardPrefix, c.PortID())
	var tables []*nft.Table
	for _, f := range families {
		tables = append(tables, guardTable(nft.TableID{Family: f, Name: name}))
	}
	if err := c.Apply(nft.Diff(nil, tables), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("add tables %s: %w", name, err), c.Close())
	}
	return &Guard{c}, nil
}

func guardTable(id nft.TableID) *nft.Table {
	return &nft.Table{TableID: id, Owner: true, Chains: []*nft.Chain{{
		Table: id, Name: "keep", Hook: nft.Prerouting, Priority: math.MaxInt32 - 1, // after everybody else's
		Rules: []nft.Rule{{Match: []nft.Match{nft.CtStatusDNAT{}}, Do: nft.Verdict{Kind: nft.Accept}}}}}}
}

// Close removes the guard's tables.
func (g *Guard) Close() error { return g.conn.Close() }
