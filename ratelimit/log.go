package ratelimit

import (
	"log/slog"
	"sync"
	"time"
)

// Burst is how many lines a Log admits at once about one object and cause, as a rule, and Every the interval after that.
const (
	Burst = 10
	Every = 10 * time.Minute
)

// Log is a log that limits the lines about each object. Its methods are safe for concurrent use.
type Log struct {
	log *slog.Logger

	mu    sync.Mutex
	lines Limiter[subject]
}

// subject is what lines are about.
type subject struct{ object, cause string }

// NewLog returns a Log that admits burst lines at once about each object and cause, and after that one in each interval of Every.
func NewLog(log *slog.Logger, burst int) *Log {
	return &Log{log: log, lines: Limiter[subject]{Burst: burst, Every: Every}}
}

// About returns the logger for one line about an object and a cause. It returns false if there were enough such lines lately. The
// next line that is admitted has the number of those that were not: suppressed.
func (l *Log) About(object, cause string) (log *slog.Logger, ok bool) {
	l.mu.Lock()
	ok, suppressed := l.lines.Allow(subject{object, cause}, time.Now())
	l.mu.Unlock()
	if suppressed > 0 {
		return l.log.With("suppressed", suppressed), true
	}
	return l.log, ok
}
