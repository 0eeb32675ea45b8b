package health

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Times of these tests; the proxy starts at the first.
var (
	proxyStart  = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	programTime = proxyStart.Add(10 * time.Second)
)

// newHealthAt is a node's health with a clock that the test sets.
func newHealthAt(now *time.Time) *Node {
	*now = proxyStart
	return &Node{now: func() time.Time { return *now }, updated: proxyStart}
}

// healthText is an answer, byte for byte; eligible is empty for /livez.
func healthText(last, now, families time.Time, eligible string, healthy bool) string {
	at := func(t time.Time) string { return t.Format(time.RFC3339Nano) }
	if eligible != "" {
		eligible = `"nodeEligible":` + eligible + `,`
	}
	family := fmt.Sprintf(`{"lastUpdated":"%s","healthy":%v}`, at(families), healthy)
	return fmt.Sprintf(`{"lastUpdated":"%s","currentTime":"%s",%s"healthy":%v,"status":{"IPv4":%s,"IPv6":%s}}`,
		at(last), at(now), eligible, healthy, family, family)
}

// TestNodeHealth: what is answered when, byte for byte as kube-proxy does.
func TestNodeHealth(t *testing.T) {
	const ok, bad = http.StatusOK, http.StatusServiceUnavailable
	ready := func(h *Node) {
		h.Queued(proxyStart.Add(time.Second))
		h.Programmed(programTime)
		h.SetEligible(true)
	}
	for _, c := range []struct {
		name          string
		do            func(*Node)
		after         time.Duration // the start
		healthz       int
		livez         int
		eligible      string
		healthy       bool
		lastOfFamily  time.Time
		readyz        int
		readyzReasons string
	}{
		{"at the start the node was never seen", func(*Node) {}, time.Hour,
			bad, ok, "false", true, proxyStart, bad, "waiting for the first Services"},
		{"first update under way", func(h *Node) { h.SetEligible(true); h.Queued(programTime) }, 30 * time.Second,
			ok, ok, "true", true, proxyStart, bad, "the first Services are not in the kernel yet"},
		{"first update not programmed", func(h *Node) { h.SetEligible(true); h.Queued(programTime) }, 70 * time.Second,
			bad, bad, "true", false, proxyStart, bad, "the first Services are not in the kernel yet"},
		{"programmed, and nothing since", ready, 10 * time.Hour, ok, ok, "true", true, programTime, ok, "ok"},
		{"an update not late", func(h *Node) { ready(h); h.Queued(programTime) }, 70*time.Second - 1,
			ok, ok, "true", true, programTime, ok, "ok"},
		{"an update late", func(h *Node) { ready(h); h.Queued(programTime) }, 70 * time.Second,
			bad, bad, "true", false, programTime, ok, "ok"},
		{"the oldest counts", func(h *Node) { ready(h); h.Queued(programTime); h.Queued(programTime.Add(time.Minute)) }, 70 * time.Second,
			bad, bad, "true", false, programTime, ok, "ok"},
		{"late and done", func(h *Node) { h.SetEligible(true); h.Queued(proxyStart); h.Programmed(programTime) }, time.Hour,
			ok, ok, "true", true, programTime, ok, "ok"},
		{"to be deleted", func(h *Node) { ready(h); h.SetEligible(false) }, time.Hour,
			bad, ok, "false", true, programTime, ok, "ok"},
		{"to be deleted, or not", func(h *Node) { ready(h); h.SetEligible(false); h.SetEligible(true) }, time.Hour,
			ok, ok, "true", true, programTime, ok, "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var now time.Time
			h := newHealthAt(&now)
			c.do(h)
			now = proxyStart.Add(c.after)
			last := func(code int) time.Time {
				if code == ok {
					return now
				}
				return c.lastOfFamily
			}
			code, body := h.healthz()
			wantHealth(t, "healthz", code, body, c.healthz, healthText(last(c.healthz), now, c.lastOfFamily, c.eligible, c.healthy))
			code, body = h.livez()
			wantHealth(t, "livez", code, body, c.livez, healthText(last(c.livez), now, c.lastOfFamily, "", c.healthy))
			code, body = h.readyz()
			wantHealth(t, "readyz", code, body, c.readyz, c.readyzReasons)
		})
	}
}

func wantHealth(t *testing.T, path string, code int, body []byte, wantCode int, wantBody string) {
	t.Helper()
	if code != wantCode || string(body) != wantBody {
		t.Errorf("%s: %d %s\nwant %d %s", path, code, body, wantCode, wantBody)
	}
}

// TestNodeHealthConcurrently is for the race detector, and for a nil one.
func TestNodeHealthConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for _, h := range []*Node{NewNode(), nil} {
		for range 4 {
			wg.Go(func() {
				for range 100 {
					h.Queued(proxyStart)
					h.SetEligible(true)
					h.Programmed(programTime)
					if h != nil {
						h.healthz()
						h.livez()
						h.readyz()
					}
				}
			})
		}
	}
	wg.Wait()
}
