package agent

import (
	"maps"
	"time"

	"nfproxy/render"
)

// Bounds of the time between two trials of a Service that the kernel refuses.
const (
	minTrial = time.Second
	maxTrial = 10 * time.Minute
)

// trials says when Services in quarantine are tried again. The zero trials are ready.
type retryQueue map[render.ServiceName]*trial

// trial is one Service's.
type trial struct {
	due   time.Time // zero while it is going on
	delay time.Duration
}

// failed notes that a Service was refused and returns how long it has to wait.
func (t *retryQueue) failed(name render.ServiceName, now time.Time) time.Duration {
	if *t == nil {
		*t = make(retryQueue)
	}
	one := (*t)[name]
	if one == nil {
		one = &trial{}
		(*t)[name] = one
	}
	one.delay = min(max(2*one.delay, minTrial), maxTrial)
	one.due = now.Add(one.delay)
	return one.delay
}

// next returns a Service whose time has come: the first of them. It is tried alone.
func (t retryQueue) next(now time.Time) (name render.ServiceName, ok bool) {
	for n, one := range t {
		if one.due.IsZero() || one.due.After(now) {
			continue
		}
		if !ok || n.Compare(name) < 0 {
			name, ok = n, true
		}
	}
	if ok {
		t[name].due = time.Time{}
	}
	return name, ok
}

// succeeded notes that the kernel has what is wanted, but for the Services in quarantine: others need no trial.
func (t retryQueue) succeeded(inQuarantine func(render.ServiceName) bool) {
	maps.DeleteFunc(t, func(name render.ServiceName, _ *trial) bool { return !inQuarantine(name) })
}

// wait is how long no trial is due.
func (t retryQueue) wait(now time.Time) time.Duration {
	wait := time.Duration(1<<63 - 1)
	for _, one := range t {
		if !one.due.IsZero() {
			wait = min(wait, max(0, one.due.Sub(now)))
		}
	}
	return wait
}
