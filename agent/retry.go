package agent

import (
	"maps"
	"time"

	"nfproxy/render"
)

// Bounds of the time between two retries of a Service whose rules the kernel refuses.
const (
	minRetry = time.Second
	maxRetry = 10 * time.Minute
)

// retryQueue holds the quarantined Services and when each is tried again. The zero retryQueue is empty and ready to use.
type retryQueue map[render.ServiceName]*retry

// retry is one Service's.
type retry struct {
	due   time.Time // zero while the Service is being tried
	delay time.Duration
}

// add notes that a Service was refused and returns the time until its next retry, which doubles each time.
func (q *retryQueue) add(name render.ServiceName, now time.Time) time.Duration {
	if *q == nil {
		*q = make(retryQueue)
	}
	r := (*q)[name]
	if r == nil {
		r = &retry{}
		(*q)[name] = r
	}
	r.delay = min(max(2*r.delay, minRetry), maxRetry)
	r.due = now.Add(r.delay)
	return r.delay
}

// next returns the first Service by name that is due. Only one Service is tried at a time.
func (q retryQueue) next(now time.Time) (name render.ServiceName, ok bool) {
	for n, r := range q {
		if r.due.IsZero() || r.due.After(now) {
			continue
		}
		if !ok || n.Compare(name) < 0 {
			name, ok = n, true
		}
	}
	if ok {
		q[name].due = time.Time{}
	}
	return name, ok
}

// keep removes all Services but those that are still quarantined.
func (q retryQueue) keep(quarantined func(render.ServiceName) bool) {
	maps.DeleteFunc(q, func(name render.ServiceName, _ *retry) bool { return !quarantined(name) })
}

// wait returns the time until the next retry is due.
func (q retryQueue) wait(now time.Time) time.Duration {
	wait := time.Duration(1<<63 - 1)
	for _, r := range q {
		if !r.due.IsZero() {
			wait = min(wait, max(0, r.due.Sub(now)))
		}
	}
	return wait
}
