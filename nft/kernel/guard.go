package kernel

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
)

// Guard keeps the kernel translating the connections that it has begun to translate, whatever others do to our tables.
//
// With the last chain of type nat goes the kernel's translation as a whole (nf_nat_unregister_fn in
// net/netfilter/nf_nat_core.c), and with the last rule that asks for connection tracking that as well (nf_ct_netns_put in
// net/netfilter/nf_conntrack_proto.c): after `nft flush ruleset`, until the tables are there again, an answer would keep
// the endpoint's address, and its client reset the connection. The Guard is a table for each family with one chain of that
// type and a rule that changes nothing, owned by its socket: a flush of others passes it over, and the kernel removes it
// when the socket is closed, as it is when the process is killed (NFT_TABLE_F_OWNER, Linux 5.12).
type Guard struct {
	conn *Conn
}

// GuardPrefix is how the names of the tables begin; the socket's number follows.
const GuardPrefix = "nfproxy-guard-"

// OpenGuard makes a Guard in the calling thread's network namespace, for some families. A kernel that knows no owners
// refuses it.
func OpenGuard(families ...nft.Family) (*Guard, error) {
	c, err := Open()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprint(GuardPrefix, c.nl.PID())
	b := c.newBatch(nil, 0)
	for _, f := range families {
		b.open(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, familyNumber(f), origin{})
		b.str(unix.NFTA_TABLE_NAME, name)
		b.uint32(unix.NFTA_TABLE_FLAGS, tableOwner)
		b.end()
		chain := &nft.Chain{Table: nft.TableID{Family: f, Name: name}, Name: "keep",
			Hook: nft.Prerouting, Priority: math.MaxInt32 - 1, // after everybody's
			Rules: []nft.Rule{{Match: []nft.Match{nft.Translated{}}, Do: nft.Verdict{Kind: nft.Accept}}}}
		b.chain(origin{}, nft.Add, chain)
		if err := b.rules(origin{}, nft.Add, chain); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	refused, err := c.deliver(b)
	if err == nil && len(refused) > 0 {
		err = refused[0].errno
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("add tables %s: %w", name, err), c.Close())
	}
	return &Guard{c}, nil
}

// Close ends the guard.
func (g *Guard) Close() error { return g.conn.Close() }
