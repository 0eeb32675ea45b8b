package ratelimit

import (
	"maps"
	"time"
)

// maxKeys is how many keys a Limiter distinguishes. All others share the bucket of the zero key, so that the memory is bounded, and
// so is what is admitted of all keys together.
const maxKeys = 10_000

// Limiter admits a burst of events of each key at once, and after that one in each interval. It forgets a key when the whole burst
// is admitted again. Its methods must not be called concurrently.
type Limiter[K comparable] struct {
	Burst int
	Every time.Duration
	// Delay, if not nil, returns how long the first event of a key is delayed. With a delay there is no burst.
	Delay func() time.Duration

	buckets map[K]bucket
	swept   time.Time // when the keys were last forgotten
}

// bucket is the state of one key.
type bucket struct {
	// full is when the whole burst is admitted again. An event is admitted if that is less than a burst away, and moves it by one
	// interval.
	full     time.Time
	admitted bool // an event was admitted
	refused  int  // since then
}

// Allow reports whether an event of the key is admitted now, and how many were refused since the last that was admitted.
func (l *Limiter[K]) Allow(key K, now time.Time) (ok bool, refused int) {
	key, b := l.bucket(key, now)
	if ok = !now.Before(b.full.Add(-l.window())); !ok {
		b.refused++
		l.buckets[key] = b
		return false, 0
	}
	if b.full.Before(now) {
		b.full = now
	}
	l.buckets[key] = bucket{full: b.full.Add(l.Every), admitted: true}
	return true, b.refused
}

// AllowFirst is Allow for an event that only repeats an earlier one: it is not admitted if another one of the key was.
func (l *Limiter[K]) AllowFirst(key K, now time.Time) bool {
	if b, known := l.buckets[key]; known && b.admitted && b.full.After(now) {
		return false
	}
	ok, _ := l.Allow(key, now)
	return ok
}

// window returns the time in which a whole burst is admitted again, less one interval.
func (l *Limiter[K]) window() time.Duration { return time.Duration(l.Burst-1) * l.Every }

// bucket returns the bucket for a key, which may be a new one, and the key to which it belongs.
func (l *Limiter[K]) bucket(key K, now time.Time) (K, bucket) {
	if b, known := l.buckets[key]; known {
		return key, b
	}
	l.forget(now)
	if len(l.buckets) >= maxKeys {
		var shared K
		return shared, l.buckets[shared]
	}
	b := bucket{full: now}
	if l.Delay != nil {
		if delay := l.Delay(); delay > 0 {
			b.full = now.Add(delay + l.window())
		}
	}
	return key, b
}

// forget removes the keys whose whole burst is admitted again, once in an interval at most.
func (l *Limiter[K]) forget(now time.Time) {
	if l.buckets == nil {
		l.buckets = make(map[K]bucket)
	}
	if now.Sub(l.swept) < l.Every {
		return
	}
	l.swept = now
	maps.DeleteFunc(l.buckets, func(_ K, b bucket) bool { return !b.full.After(now) })
}
