package agent

import (
	"time"

	"nfproxy/agent/metrics"
	"nfproxy/nft"
	"nfproxy/render"
)

// observer is a part of the daemon that follows what the daemon does. Functions that are nil are not called. The daemon calls
// its observers one after the other, in the order of its list, and waits for each: they must not block.
type observer struct {
	// updated: an Update arrived; the Ruleset has it already. Endpoints with slow start have the weights that they grow to: observers
	// are not told of the steps.
	updated func(render.Update)
	// conflicted: an Update brought frontends that two Services claim.
	conflicted func([]render.Conflict)
	// disturbed: another program changed the tables, or may have.
	disturbed func()
	// committed: the kernel has everything that was desired. It is called even if there was nothing to change.
	committed func(commit)
	// compared: a periodic comparison with the kernel's tables ended.
	compared func(metrics.ComparisonResult)
	// failed: an attempt to program the kernel failed, and the tables are as they were.
	failed func()
	// quarantined: the kernel refused the rules of a Service, which keeps those that it had.
	quarantined func(service render.ServiceName, refusal error, retry time.Duration)
}

// commit describes how the kernel got everything that was desired.
type commit struct {
	changes []nft.Change
	took    time.Duration // from the beginning of the plan to the kernel's answer
	full    bool          // the tables were read and compared as a whole
	// repaired: another program had changed the tables, and something was wrong. Without full, only elements were, and only
	// they were read.
	repaired bool
	// seen is when the first of the Updates reached this machine, zero if there was none; triggered are the times at which
	// their causes happened in the cluster.
	seen      time.Time
	triggered []time.Time
	// quarantined is the number of Services in quarantine, contested that of the frontends that several Services claim.
	quarantined, contested int
	services               int // those that have rules
}

// operations counts the elements that were added and deleted.
func (c commit) operations() int { return nft.ElementOperations(c.changes) }
