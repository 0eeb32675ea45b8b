package health

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// programmingTimeout is the age at which a pending update makes the node unhealthy: kube-proxy's 2*syncPeriod with the
// default period.
const programmingTimeout = 60 * time.Second

// Node is the health of this node's proxy, with kube-proxy's rules and responses (pkg/proxy/healthcheck/proxy_health.go,
// KEP-3836). It is safe for concurrent use. Queued, Programmed and SetEligible of a nil Node do nothing.
type Node struct {
	now      func() time.Time
	ipv4Only bool

	mu sync.Mutex
	// pending is the arrival time of the oldest update that is not programmed; it is zero if there is none.
	pending time.Time
	// lastUpdated is the time when the kernel last had all updates, initially the start of the proxy.
	lastUpdated      time.Time
	eligible, synced bool
	standby          bool
}

// NewNode returns a Node that is healthy until an update is pending for too long. The node is not eligible until SetEligible,
// as in kube-proxy before it has seen the Node object. ipv4Only is true if the kernel has no IPv6; the responses then do not
// include that family.
func NewNode(ipv4Only bool) *Node {
	return &Node{now: time.Now, ipv4Only: ipv4Only, lastUpdated: time.Now()}
}

// Queued records that an update arrived at a time.
func (n *Node) Queued(at time.Time) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending.IsZero() {
		n.pending = at
	}
}

// Programmed records that the kernel had all queued updates at a time.
func (n *Node) Programmed(at time.Time) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending, n.lastUpdated, n.synced = time.Time{}, at, true
}

// Healthy reports whether no update is pending for longer than kube-proxy tolerates. It does not depend on SetEligible.
// /livez, /healthz and the health check node ports of Services depend on it (Health in kube-proxy, called by
// pkg/proxy/healthcheck/service_health.go).
func (n *Node) Healthy() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.healthyAt(n.now())
}

// healthyAt returns the result of Healthy at a time. The caller holds the lock.
func (n *Node) healthyAt(now time.Time) bool {
	return n.pending.IsZero() || now.Sub(n.pending) < programmingTimeout
}

// SetEligible sets whether load balancers should send new connections to the node.
func (n *Node) SetEligible(eligible bool) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.eligible = eligible
}

// SetStandby sets whether another daemon programs this node, so that this one is alive but not ready.
func (n *Node) SetStandby(standby bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.standby = standby
}

// nodeStatus is the body of a response, with kube-proxy's fields in kube-proxy's order.
type nodeStatus struct {
	LastUpdated  time.Time `json:"lastUpdated"`
	CurrentTime  time.Time `json:"currentTime"`
	NodeEligible *bool     `json:"nodeEligible,omitempty"`
	// Healthy does not depend on NodeEligible.
	Healthy bool                    `json:"healthy"`
	Status  map[string]familyStatus `json:"status"`
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// status returns the same status for all families, because nfproxy programs them together. Like kube-proxy it includes the
// families that are programmed: both if the kernel has IPv6, whatever the cluster uses, else only IPv4
// (cmd/kube-proxy/app/server_linux.go, platformCheckSupported). kube-proxy also leaves IPv6 out if the sysctl
// net.ipv6.conf.all.disable_ipv6 is 1; nfproxy programs IPv6 then. All times are of the present clock, which may have been set since
// the last update. The caller holds the lock.
func (n *Node) status() nodeStatus {
	now := n.now()
	updated := now.Add(-now.Sub(n.lastUpdated))
	s := nodeStatus{LastUpdated: updated, CurrentTime: now, Status: make(map[string]familyStatus)}
	s.Healthy = n.healthyAt(now)
	s.Status["IPv4"] = familyStatus{updated, s.Healthy}
	if !n.ipv4Only {
		s.Status["IPv6"] = s.Status["IPv4"]
	}
	return s
}

// livez returns the response of /livez, which fails if the proxy should be restarted.
func (n *Node) livez() (code int, body []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status()
	return s.response(s.Healthy)
}

// healthz returns the response of /healthz, which fails if load balancers should not send new connections to the node.
func (n *Node) healthz() (code int, body []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status()
	s.NodeEligible = new(n.eligible)
	return s.response(s.Healthy && n.eligible)
}

// response returns the status code and body. As in kube-proxy, LastUpdated of a successful response is the current time.
func (s nodeStatus) response(ok bool) (code int, body []byte) {
	code = http.StatusServiceUnavailable
	if ok {
		code, s.LastUpdated = http.StatusOK, s.CurrentTime
	}
	body, err := json.Marshal(s)
	if err != nil { // a year after 9999
		return http.StatusInternalServerError, []byte(err.Error())
	}
	return code, body
}

// readyz returns the response of /readyz, which succeeds from the first programmed update on. A later failure does not make
// the proxy unready: the kernel keeps its rules, and /healthz fails if the failure lasts.
func (n *Node) readyz() (code int, body []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.synced:
		return http.StatusOK, []byte("ok")
	case n.standby:
		return http.StatusServiceUnavailable, []byte("another nfproxy daemon programs this node")
	case n.pending.IsZero():
		return http.StatusServiceUnavailable, []byte("waiting for the first Services")
	default:
		return http.StatusServiceUnavailable, []byte("the first Services are not in the kernel yet")
	}
}
