package agent

import (
	"testing"
	"time"

	"nfproxy/render"
)

// TestRetryQueue: Services are tried one at a time, and the delay of each doubles with every failure.
func TestRetryQueue(t *testing.T) {
	now := time.Now()
	var some retryQueue
	if _, ok := some.next(now); ok || some.wait(now) < time.Hour {
		t.Error("an empty queue returns a Service, or a short time to wait")
	}
	a, b := testService("a", "10.96.0.1:80").ServiceName, testService("b", "10.96.0.2:80").ServiceName
	if d := some.add(b, now); d != minRetry {
		t.Errorf("it waits %v", d)
	}
	some.add(a, now)
	if got := some.wait(now); got != minRetry {
		t.Errorf("the first waits %v", got)
	}
	now = now.Add(minRetry)
	if name, ok := some.next(now); !ok || name != a {
		t.Errorf("the first is %v", name)
	}
	if name, ok := some.next(now); !ok || name != b {
		t.Errorf("the second is %v", name)
	}
	if _, ok := some.next(now); ok {
		t.Error("there is a third")
	}
	if d := some.add(b, now); d != 2*minRetry {
		t.Errorf("the second time it waits %v", d)
	}
	some.keep(func(n render.ServiceName) bool { return n == b }) // a is out of quarantine
	for range 20 {
		some.add(b, now)
	}
	if len(some) != 1 || some.add(b, now) != maxRetry {
		t.Errorf("left are %v", some)
	}
}
