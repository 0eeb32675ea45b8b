package kernel

// The pause of a Monitor during a large batch of its Conn.

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nlmsg"
)

// largeBatch is the number of element operations from which Apply pauses the Monitor. If any socket listens, the kernel
// makes a message of one page for every element before it looks at the sockets' filters (nf_tables_setelem_notify in
// net/netfilter/nf_tables_api.c): a first load of 10,000 Services would take 300 MB for a moment.
const largeBatch = 1000

// subscription is the membership of a Monitor's socket in the multicast group for nf_tables. The Monitor receives from
// the socket. Its Conn suspends and resumes the membership, in Apply's goroutine, while the Monitor may be in Next.
type subscription struct {
	nl *nlmsg.Socket
	// left reports that a pause has begun and the socket has not joined the group again. Only Apply's goroutine uses it.
	left bool
}

func (s *subscription) join() error {
	if err := s.nl.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("monitor nftables: join group: %w", err)
	}
	s.left = false
	return nil
}

func (s *subscription) leave() error {
	if err := s.nl.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("monitor nftables: leave group: %w", err)
	}
	s.left = true
	return nil
}

// rejoin joins the group again if the end of a pause could not. The changes of the time between are reported as missed.
func (s *subscription) rejoin() error {
	if !s.left {
		return nil
	}
	if err := s.join(); err != nil {
		return err
	}
	return s.reportMissed()
}

// reportMissed makes Next return ExternalChange{Missed: true}. Several calls before Next returns make one report.
//
// The expired read deadline is the only signal. It ends a receive that waits, or else the next one. Only Next clears it,
// after it has ended a receive, so that no deadline can remain that makes a later Next fail.
func (s *subscription) reportMissed() error {
	if err := s.nl.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("monitor nftables: set deadline: %w", err)
	}
	return nil
}

// clearMissed undoes reportMissed.
func (s *subscription) clearMissed() error {
	if err := s.nl.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("monitor nftables: clear deadline: %w", err)
	}
	return nil
}

// pause is the time in which a Conn's Monitor does not receive notifications.
type pause struct {
	conn       *Conn
	generation uint32 // of the ruleset when the pause began
	commits    uint32 // of the Conn until then
}

// pauseMonitor begins a pause. Every commit up to the pause's generation is still notified.
func (c *Conn) pauseMonitor() (pause, error) {
	generation, err := c.Generation()
	if err != nil {
		return pause{}, fmt.Errorf("monitor nftables: %w", err)
	}
	// A commit counts in the generation before its notifications are sent, but both happen under one mutex, for which an
	// empty batch waits too (nf_tables_valid_genid and nf_tables_commit in net/netfilter/nf_tables_api.c).
	if _, err := c.deliver(c.newBatch(nil, 0)); err != nil {
		return pause{}, fmt.Errorf("monitor nftables: %w", err)
	}
	return pause{c, generation, c.commits}, c.monitored.leave()
}

// resume ends the pause. If the generation has advanced further than the Conn's own commits account for, another program
// has committed during the pause, and the Monitor reports that it missed changes. If the Monitor cannot join its group, each
// later Apply tries again first.
func (p pause) resume() error {
	s := p.conn.monitored
	if err := s.join(); err != nil {
		return err
	}
	generation, err := p.conn.Generation()
	if err == nil && generation-p.generation == p.conn.commits-p.commits {
		return nil
	}
	if err != nil {
		err = fmt.Errorf("monitor nftables: %w", err)
	}
	return errors.Join(err, s.reportMissed())
}
