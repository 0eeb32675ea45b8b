package agent

import (
	"time"

	"nfproxy/ratelimit"
	"nfproxy/render"
)

// The quota of Events about one Service and reason. Every node finds the same, and they would write the same Event together.
// Instead about nodesAtOnce of them may write in the first minute and as many others in each minute after that, if the cause then
// still recurs, however many nodes there are. A node may write eventBurst Events if it is among the first, and then one in each
// interval; the interval grows with the number of nodes, so that nodesAtOnce Events a minute is also the limit for what recurs.
const (
	nodesAtOnce      = 10
	eventBurst       = 5
	minEventInterval = 10 * time.Minute
)

// eventQuota decides which Events about Services this node writes. It is not safe for concurrent use.
type eventQuota struct {
	nodes   int
	random  func() float64 // in [0, 1)
	limiter ratelimit.Limiter[eventSubject]
}

// eventSubject is what Events of a quota have in common.
type eventSubject struct {
	service render.ServiceName
	reason  string
}

func newEventQuota(random func() float64) *eventQuota {
	q := &eventQuota{random: random}
	q.limiter = ratelimit.Limiter[eventSubject]{Burst: eventBurst, Delay: q.delay}
	q.setNodes(1)
	return q
}

// setNodes sets the number of nodes in the cluster.
func (q *eventQuota) setNodes(n int) {
	q.nodes = n
	q.limiter.Every = max(minEventInterval, time.Duration(n)*time.Minute/nodesAtOnce)
}

// delay returns how long this node waits before it may write the first Event about a Service and reason. It is random, so that
// a tenant cannot choose a name for a Service about which no node writes.
func (q *eventQuota) delay() time.Duration {
	place := int(q.random() * float64(q.nodes)) // in the order of nodes
	return time.Duration(place/nodesAtOnce) * time.Minute
}

// admits reports whether this node writes an Event.
func (q *eventQuota) admits(e serviceEvent, now time.Time) bool {
	if e.again {
		return q.limiter.AllowFirst(e.subject(), now)
	}
	ok, _ := q.limiter.Allow(e.subject(), now)
	return ok
}
