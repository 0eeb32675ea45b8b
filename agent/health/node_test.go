package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// The times when the proxy starts and when its first update is programmed.
var (
	proxyStart  = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	programTime = proxyStart.Add(10 * time.Second)
)

// newNodeAt returns a Node whose clock is now, which it sets to the start of the proxy.
func newNodeAt(now *time.Time) *Node {
	*now = proxyStart
	return &Node{now: func() time.Time { return *now }, lastUpdated: proxyStart}
}

// statusJSON returns the body of a response; eligible is empty for /livez.
func statusJSON(last, now, families time.Time, eligible string, healthy bool) string {
	at := func(t time.Time) string { return t.Format(time.RFC3339Nano) }
	if eligible != "" {
		eligible = `"nodeEligible":` + eligible + `,`
	}
	family := fmt.Sprintf(`{"lastUpdated":"%s","healthy":%v}`, at(families), healthy)
	return fmt.Sprintf(`{"lastUpdated":"%s","currentTime":"%s",%s"healthy":%v,"status":{"IPv4":%s,"IPv6":%s}}`,
		at(last), at(now), eligible, healthy, family, family)
}

// TestNodeHealth: the responses are kube-proxy's, byte for byte, before and after updates are programmed in time or late.
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
		after         time.Duration // since the start
		healthz       int
		livez         int
		eligible      string
		healthy       bool
		lastOfFamily  time.Time
		readyz        int
		readyzReasons string
	}{
		{"no update, node not seen", func(*Node) {}, time.Hour,
			bad, ok, "false", true, proxyStart, bad, "waiting for the first Services"},
		{"another daemon programs the node", func(h *Node) { h.SetStandby(true) }, time.Hour,
			bad, ok, "false", true, proxyStart, bad, "another nfproxy daemon programs this node"},
		{"first update pending", func(h *Node) { h.SetEligible(true); h.Queued(programTime) }, 30 * time.Second,
			ok, ok, "true", true, proxyStart, bad, "the first Services are not in the kernel yet"},
		{"first update late", func(h *Node) { h.SetEligible(true); h.Queued(programTime) }, 70 * time.Second,
			bad, bad, "true", false, proxyStart, bad, "the first Services are not in the kernel yet"},
		{"programmed, no update since", ready, 10 * time.Hour, ok, ok, "true", true, programTime, ok, "ok"},
		{"update pending, not late", func(h *Node) { ready(h); h.Queued(programTime) }, 70*time.Second - 1,
			ok, ok, "true", true, programTime, ok, "ok"},
		{"update late", func(h *Node) { ready(h); h.Queued(programTime) }, 70 * time.Second,
			bad, bad, "true", false, programTime, ok, "ok"},
		{"oldest of two updates late", func(h *Node) { ready(h); h.Queued(programTime); h.Queued(programTime.Add(time.Minute)) }, 70 * time.Second,
			bad, bad, "true", false, programTime, ok, "ok"},
		{"late update programmed", func(h *Node) { h.SetEligible(true); h.Queued(proxyStart); h.Programmed(programTime) }, time.Hour,
			ok, ok, "true", true, programTime, ok, "ok"},
		{"node not eligible", func(h *Node) { ready(h); h.SetEligible(false) }, time.Hour,
			bad, ok, "false", true, programTime, ok, "ok"},
		{"node eligible again", func(h *Node) { ready(h); h.SetEligible(false); h.SetEligible(true) }, time.Hour,
			ok, ok, "true", true, programTime, ok, "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var now time.Time
			h := newNodeAt(&now)
			c.do(h)
			now = proxyStart.Add(c.after)
			if got := h.Healthy(); got != c.healthy {
				t.Errorf("healthy: %v", got)
			}
			last := func(code int) time.Time {
				if code == ok {
					return now
				}
				return c.lastOfFamily
			}
			code, body := h.healthz()
			wantResponse(t, "healthz", code, body, c.healthz, statusJSON(last(c.healthz), now, c.lastOfFamily, c.eligible, c.healthy))
			code, body = h.livez()
			wantResponse(t, "livez", code, body, c.livez, statusJSON(last(c.livez), now, c.lastOfFamily, "", c.healthy))
			code, body = h.readyz()
			wantResponse(t, "readyz", code, body, c.readyz, c.readyzReasons)
		})
	}
}

// TestNodeHealthWithoutIPv6: on a kernel without IPv6 the responses have no status of that family, as in kube-proxy.
func TestNodeHealthWithoutIPv6(t *testing.T) {
	for _, ipv4Only := range []bool{false, true} {
		_, body := NewNode(ipv4Only).livez()
		var response struct{ Status map[string]any }
		if err := json.Unmarshal(body, &response); err != nil {
			t.Fatal(err)
		}
		_, has4 := response.Status["IPv4"]
		_, has6 := response.Status["IPv6"]
		if !has4 || has6 == ipv4Only {
			t.Errorf("IPv4 only %v: %s", ipv4Only, body)
		}
	}
}

func wantResponse(t *testing.T, path string, code int, body []byte, wantCode int, wantBody string) {
	t.Helper()
	if code != wantCode || string(body) != wantBody {
		t.Errorf("%s: %d %s\nwant %d %s", path, code, body, wantCode, wantBody)
	}
}

// TestNodeHealthConcurrently: Node, including a nil one, is safe for concurrent use under the race detector.
func TestNodeHealthConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for _, h := range []*Node{NewNode(false), nil} {
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
						h.Healthy()
					}
				}
			})
		}
	}
	wg.Wait()
}
