package health

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// healthTimeout is how old an update may become that is not programmed: kube-proxy's 2*syncPeriod, with its default.
const healthTimeout = 60 * time.Second

// nodeHealth tells whether this node's proxy does its work, with kube-proxy's words
// (pkg/proxy/healthcheck/proxy_health.go, KEP-3836). It may be used concurrently; the loop tells a nil one in vain.
type Node struct {
	now func() time.Time

	mu sync.Mutex
	// pending is when the oldest update came that is not programmed, zero if there is none.
	pending time.Time
	// updated is when the kernel last had everything, or when the proxy started.
	updated          time.Time
	eligible, synced bool
}

// newNodeHealth is healthy while it waits for its source. The node is not eligible until setEligible says so, as one is
// not for kube-proxy that it has not seen.
func NewNode() *Node { return &Node{now: time.Now, updated: time.Now()} }

// queued notes that at a time something came to be programmed.
func (h *Node) Queued(at time.Time) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending.IsZero() {
		h.pending = at
	}
}

// programmed notes that at a time the kernel had all that was queued.
func (h *Node) Programmed(at time.Time) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending, h.updated, h.synced = time.Time{}, at, true
}

// setEligible says whether load balancers should send the node anything new.
func (h *Node) SetEligible(eligible bool) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eligible = eligible
}

// nodeStatus is the body of an answer; kube-proxy's has these fields in this order.
type nodeStatus struct {
	LastUpdated  time.Time `json:"lastUpdated"`
	CurrentTime  time.Time `json:"currentTime"`
	NodeEligible *bool     `json:"nodeEligible,omitempty"`
	// Healthy says nothing of eligibility.
	Healthy bool                    `json:"healthy"`
	Status  map[string]familyStatus `json:"status"`
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// status is the same for both families, which are programmed together. kube-proxy has both as well wherever the kernel
// has IPv6, whatever the cluster uses (cmd/kube-proxy/app/server_linux.go, platformCheckSupported); where it has not,
// that shows IPv4 alone. The caller holds the lock.
func (h *Node) status() nodeStatus {
	now := h.now()
	s := nodeStatus{LastUpdated: h.updated, CurrentTime: now, Status: make(map[string]familyStatus)}
	s.Healthy = h.pending.IsZero() || now.Sub(h.pending) < healthTimeout
	for _, family := range []string{"IPv4", "IPv6"} {
		s.Status[family] = familyStatus{h.updated, s.Healthy}
	}
	return s
}

// livez answers who asks whether the proxy has to be started anew.
func (h *Node) livez() (code int, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.status()
	return s.answer(s.Healthy)
}

// healthz answers who asks whether to send the node connections.
func (h *Node) healthz() (code int, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.status()
	s.NodeEligible = new(h.eligible)
	return s.answer(s.Healthy && h.eligible)
}

// answer makes an answer of the status. A good one was updated now, whenever that was: who reads it expects so.
func (s nodeStatus) answer(good bool) (code int, body []byte) {
	code = http.StatusServiceUnavailable
	if good {
		code, s.LastUpdated = http.StatusOK, s.CurrentTime
	}
	body, err := json.Marshal(s)
	if err != nil { // a year beyond 9999
		return http.StatusInternalServerError, []byte(err.Error())
	}
	return code, body
}

// readyz answers who waits for the proxy to have begun: from the first round in the kernel on it has, whatever comes. A
// kernel whose state is not known meanwhile still has rules, and healthz tells when that lasts.
func (h *Node) readyz() (code int, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.synced:
		return http.StatusOK, []byte("ok")
	case h.pending.IsZero():
		return http.StatusServiceUnavailable, []byte("waiting for the first Services")
	default:
		return http.StatusServiceUnavailable, []byte("the first Services are not in the kernel yet")
	}
}
