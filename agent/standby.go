package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/agent/health"
	"nfproxy/config"
	"nfproxy/nft"
	"nfproxy/render"
)

// standbyInterval is the time between two attempts to claim the guard while another daemon has it. Each is two small requests.
const standbyInterval = time.Second

// reasonStandby is the reason of the Event that another daemon programs this node.
const reasonStandby = "WaitingForOtherDaemon"

// standby is a daemon's wait for the end of another one in the same network namespace. Two daemons with different settings, or of
// different versions, would undo each other's changes for ever.
type standby struct {
	guard    *Guard
	families []nft.Family
	node     *health.Node
	log      *slog.Logger
}

// claimGuard claims the guard. While another daemon has it, the daemon d waits before it programs anything. If the guard cannot be
// claimed for another reason, the daemon works without it: it is less robust, and does not notice a second daemon.
func claimGuard(d *daemon, guard *Guard, node *health.Node, set config.Settings, told *events) {
	s := &standby{guard, familiesOf(set.Node), node, d.log}
	err := guard.Claim(s.families...)
	if other, ok := errors.AsType[*OtherDaemonError](err); ok {
		d.log.Warn("another nfproxy daemon keeps the tables of this network namespace; waiting until it ends", "table", other.Table)
		told.standsBy(other)
		node.SetStandby(true)
		d.standby = func(ctx context.Context) {
			if s.await(ctx, d) {
				setUpMachine("/", set, d.log)
			}
		}
		return
	}
	if err != nil {
		d.log.Warn("open connections can break while others flush the ruleset, and a second nfproxy daemon is not noticed: the kernel keeps no table of ours",
			"error", err)
	}
	setUpMachine("/", set, d.log)
}

// familiesOf returns the families that a node has.
func familiesOf(n render.Node) []nft.Family {
	if n.IPv4Only {
		return []nft.Family{nft.IPv4}
	}
	return []nft.Family{nft.IPv4, nft.IPv6}
}

// await waits until the other daemon has ended and the guard is claimed. It returns false if ctx ends first. The changes that the
// other daemon makes meanwhile are of no interest.
func (s *standby) await(ctx context.Context, d *daemon) bool {
	ticker := time.NewTicker(standbyInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-d.external:
		case <-ticker.C:
			err := s.guard.Claim(s.families...)
			if err == nil {
				s.node.SetStandby(false)
				s.log.Info("the other nfproxy daemon has ended; this one takes over")
				return true
			}
			if _, ok := errors.AsType[*OtherDaemonError](err); !ok {
				s.log.Warn("could not find out whether another nfproxy daemon runs; waiting", "error", err, "retry", standbyInterval)
			}
		}
	}
}

// standsBy reports that another daemon programs this node.
func (e *events) standsBy(other *OtherDaemonError) {
	if e != nil {
		e.recorder.Event(e.nodeReference(), corev1.EventTypeWarning, reasonStandby, other.Error()+"; this one waits until it ends")
	}
}
