package kernel

// The connection to nf_tables: opening it, requests, the ruleset's generation.

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// Conn is a connection to the nf_tables of one network namespace. It must not be used by two goroutines at once.
type Conn struct {
	// CounterKey tells Apply which counters continue when it replaces elements: a counter passes on to the element of the
	// same set that has the same counter key. If CounterKey is nil, the key of an element is its counter key.
	CounterKey func(*nft.Set, nft.Element) nft.Value

	// WithoutDestroy makes Apply and Settle do without NFT_MSG_DESTROYSETELEM, as on kernels before 6.3. Tests set it.
	WithoutDestroy bool

	// WithoutCounts makes Read do without the numbers of elements in sets, which older kernels do not return. Tests set it.
	WithoutCounts bool

	nl         *nlmsg.Socket
	spare      []byte        // the buffer of the last batch
	commits    uint32        // number of batches committed so far
	monitored  *subscription // of the Conn's Monitor, nil if there is none
	read       position      // of the last Read
	references *references   // nil if Read lists all sets
	deletes    uint16        // the message that deletes dynamic elements, 0 if that is unknown yet
	unsettled  []nft.Change  // of dynamic elements
	fruitless  int           // incomplete listings for the first of unsettled since one had elements to change
}

// position is a state of the ruleset, as a Conn knows it: the generation, and the number of the Conn's commits until then.
type position struct {
	generation, commits uint32
	// reachable: elements to which nothing leads were left out.
	reachable bool
}

// Open opens a connection to the calling thread's network namespace. Without the privilege to change nftables there, the
// error says which privilege is missing and wraps os.ErrPermission.
func Open() (*Conn, error) {
	s, err := nlmsg.Dial()
	if err != nil {
		return nil, err
	}
	c := &Conn{nl: s}
	// The kernel checks the privilege before anything else (nfnetlink_rcv in net/netfilter/nfnetlink.c).
	if _, err := c.Generation(); err != nil {
		c.Close()
		if errors.Is(err, os.ErrPermission) {
			return nil, unprivileged{}
		}
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

// Close closes the connection. The kernel then removes the tables that the connection owns (nft.Table.Owner); everything
// else that was applied stays.
func (c *Conn) Close() error {
	if c.references != nil {
		return errors.Join(c.references.second.Close(), c.nl.Close())
	}
	return c.nl.Close()
}

// unprivileged is Open's error for a process without CAP_NET_ADMIN.
type unprivileged struct{}

func (unprivileged) Error() string {
	return "nftables can be read and changed only with CAP_NET_ADMIN: run as root, or grant that capability"
}

func (unprivileged) Unwrap() error { return os.ErrPermission }

// Traffic returns the netlink traffic of the connection so far, without that of its Monitor.
func (c *Conn) Traffic() nlmsg.Traffic {
	if c.references != nil {
		return c.nl.Traffic.Add(c.references.second.nl.Traffic)
	}
	return c.nl.Traffic
}

// PortID returns the netlink port ID of the connection's socket, which is unique in the network namespace.
func (c *Conn) PortID() uint32 { return c.nl.PID() }

// request sends a message of the nf_tables subsystem and passes the body of each answer to each.
func (c *Conn) request(kind, flags uint16, family uint8, fill func(*nlmsg.Message), each func(body []byte) error) error {
	return c.nl.Exchange(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, kind), flags, family, fill, each)
}

// Generation returns the generation number of the namespace's ruleset. Every commit of any program changes it.
func (c *Conn) Generation() (uint32, error) {
	var gen uint32
	err := c.request(unix.NFT_MSG_GETGEN, unix.NLM_F_ACK, unix.AF_UNSPEC, nil, func(body []byte) error {
		for kind, b := range nlmsg.Attributes(body) {
			if kind == unix.NFTA_GEN_ID {
				gen = uint32(nlmsg.Number(b))
			}
		}
		return nil
	})
	return gen, err
}

// ChangedSinceRead reports whether another program has committed, in whatever table, since the last Read began its successful
// attempt: whether the generation has advanced further than the Conn's own commits account for. It is one small request. After
// ReadReachable left elements out, it reports true: another Read can find more.
func (c *Conn) ChangedSinceRead() (bool, error) {
	if c.read.reachable {
		return true, nil
	}
	generation, err := c.Generation()
	if err != nil {
		return false, fmt.Errorf("read generation: %w", err)
	}
	return generation-c.read.generation != c.commits-c.read.commits, nil
}
