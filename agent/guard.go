package agent

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// Guard has two tasks. It keeps the kernel translating the connections whose translation has begun, whatever other programs do
// to our tables, and it makes sure that one daemon at most programs a network namespace.
//
// When the last chain of type nat goes, the kernel stops translating altogether (nf_nat_unregister_fn in
// net/netfilter/nf_nat_core.c), and when the last rule that uses connection tracking goes, it stops tracking
// (nf_ct_netns_put in net/netfilter/nf_conntrack_proto.c). After `nft flush ruleset`, and until the tables are restored, an
// answer would therefore keep the endpoint's address, and its client would reset the connection. The Guard prevents this: it
// is one table for each family, with one chain of type nat and one rule that changes nothing, and it is owned by the
// Guard's socket, so that a flush by another program passes it over.
//
// The kernel adds the tables for one socket only, and removes them when that socket is closed, which the end of the process does
// at the latest. So of several daemons that start at the same time exactly one gets the Guard.
//
// Each Instance has a guard of its own: instances with different names do not disturb each other.
//
// The zero Guard is that of the zero Instance. It is not claimed and ready to use. Its methods must not be called by two goroutines
// at once.
type Guard struct {
	instance render.Instance
	// conn is nil before the first Claim, and after one that succeeded.
	conn *kernel.Conn
	// socket owns the tables; it is nil if the Guard is not claimed.
	socket *os.File
}

const (
	// GuardTable is the name of the tables of the Guard of the zero Instance. That of another Instance has its Suffix.
	GuardTable = "nfproxy-guard"
	// numberedGuard is how the names of these tables begin in v0.1.0, which has no instances; the port ID of the socket follows.
	numberedGuard = GuardTable + "-"
	// guardAttempts is how often Claim tries to add the tables. A lack of memory passes; it can also hide whether they were added.
	guardAttempts = 3
)

// guardName returns the name of the tables of the Guard of an Instance.
func guardName(i render.Instance) string { return GuardTable + i.Suffix() }

// NewGuard returns the Guard of an Instance, which is not claimed.
func NewGuard(i render.Instance) *Guard { return &Guard{instance: i} }

// OtherDaemonError is the error of Claim while another daemon of the Instance runs in the network namespace.
type OtherDaemonError struct {
	// Table is a guard table of that daemon.
	Table nft.TableID
}

func (e *OtherDaemonError) Error() string {
	return fmt.Sprintf("table %s belongs to another nfproxy daemon", e.Table)
}

// Claim adds the guard's tables of some families to the network namespace of the thread that calls Claim first. It returns an
// *OtherDaemonError while another daemon has them. It fails on kernels without tables that have owners (before Linux 5.12). Claim
// of a claimed Guard does nothing. It tries guardAttempts times.
func (g *Guard) Claim(families ...nft.Family) (err error) {
	if g.socket != nil {
		return nil
	}
	for range guardAttempts {
		err = g.claimOnce(families)
		if _, other := errors.AsType[*OtherDaemonError](err); err == nil || other {
			return err
		}
		err = errors.Join(err, g.drop())
	}
	return err
}

// drop closes the connection. The tables that it may have added, if the kernel's answer was lost, go with it.
func (g *Guard) drop() error {
	if g.conn == nil {
		return nil
	}
	err := g.conn.Close()
	g.conn = nil
	return err
}

func (g *Guard) claimOnce(families []nft.Family) (err error) {
	if g.conn == nil {
		if g.conn, err = kernel.Open(); err != nil {
			return err
		}
	}
	tables, err := guardTables(g.conn, g.instance)
	if err != nil {
		return err
	}
	if other := tables.otherDaemon(); other != nil {
		return other
	}
	var wanted []*nft.Table
	for _, f := range families {
		wanted = append(wanted, guardTable(nft.TableID{Family: f, Name: guardName(g.instance)}))
	}
	changes := slices.Concat(nft.Diff(tables.ownerless(guardName(g.instance)), nil), nft.Diff(nil, wanted))
	if err := g.conn.Apply(changes, 0); errors.Is(err, unix.EPERM) {
		return &OtherDaemonError{wanted[0].TableID} // that daemon was faster
	} else if err != nil {
		return fmt.Errorf("add tables %s: %w", guardName(g.instance), err)
	}
	if g.socket, err = g.conn.Socket(); err != nil {
		return err
	}
	return g.drop()
}

// RunningDaemon returns an *OtherDaemonError if a daemon of an Instance runs in the network namespace of c. On kernels without
// tables that have owners it finds none.
func RunningDaemon(c *kernel.Conn, i render.Instance) error {
	tables, err := guardTables(c, i)
	if err != nil {
		return err
	}
	if other := tables.otherDaemon(); other != nil {
		return other
	}
	return nil
}

// ownedTables are the guard tables of an Instance in a network namespace, of this and other versions, with the port IDs of their
// owners. A table without an owner has 0; it belongs to no daemon.
type ownedTables map[nft.TableID]uint32

func guardTables(c *kernel.Conn, i render.Instance) (ownedTables, error) {
	all, err := c.TableOwners()
	if err != nil {
		return nil, err
	}
	tables := make(ownedTables)
	for id, owner := range all {
		if id.Name == guardName(i) || i.Name() == "" && strings.HasPrefix(id.Name, numberedGuard) {
			tables[id] = owner
		}
	}
	return tables, nil
}

// otherDaemon returns the error that names the table of another daemon, nil if there is none.
func (o ownedTables) otherDaemon() *OtherDaemonError {
	var found *OtherDaemonError
	for id, owner := range o {
		if owner != 0 && (found == nil || id.String() < found.Table.String()) {
			found = &OtherDaemonError{id}
		}
	}
	return found
}

// ownerless returns the tables that have this name of a Guard and belong to no daemon, such as those of a ruleset that was saved
// and loaded again.
func (o ownedTables) ownerless(name string) []*nft.Table {
	var tables []*nft.Table
	for id, owner := range o {
		if owner == 0 && id.Name == name {
			tables = append(tables, &nft.Table{TableID: id})
		}
	}
	return tables
}

func guardTable(id nft.TableID) *nft.Table {
	return &nft.Table{TableID: id, Owner: true, Chains: []*nft.Chain{{
		Table: id, Name: "keep", Hook: nft.Prerouting, Priority: math.MaxInt32 - 1, // after everybody else's
		Rules: []nft.Rule{{Match: []nft.Match{nft.CtStatusDNAT{}}, Do: nft.Verdict{Kind: nft.Accept}}}}}}
}

// Close removes the guard's tables.
func (g *Guard) Close() (err error) {
	if g.conn != nil {
		err = g.conn.Close()
	}
	if g.socket != nil {
		err = errors.Join(err, g.socket.Close())
	}
	*g = Guard{instance: g.instance}
	return err
}
