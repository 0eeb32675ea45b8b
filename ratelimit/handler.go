package ratelimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// NewHandler returns a handler that limits the records of each message, for libraries that log the same at each attempt: it passes
// burst of them on to next at once, and after that one in each interval of Every, with the number of those before that it did not
// pass on: suppressed.
func NewHandler(next slog.Handler, burst int) slog.Handler {
	return handler{next, &messages{Limiter: Limiter[string]{Burst: burst, Every: Every}}}
}

// handler shares its messages with the handlers that are derived from it.
type handler struct {
	slog.Handler
	messages *messages
}

type messages struct {
	sync.Mutex
	Limiter[string]
}

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h.messages.Lock()
	ok, suppressed := h.messages.Allow(r.Message, time.Now())
	h.messages.Unlock()
	if !ok {
		return nil
	}
	if suppressed > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("suppressed", suppressed))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.messages}
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.messages}
}
