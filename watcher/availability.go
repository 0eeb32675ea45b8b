package watcher

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// connection tells the log when the API server stops to answer and when it answers again, and what it refuses: each time
// once, however often it is asked.
type availability struct {
	log *slog.Logger

	mu sync.Mutex
	// lost is when the first of failing failed; failing are the resources whose last request was not answered.
	lost    time.Time
	failing map[string]bool
	// refused are the requests that the server has refused to answer, as "resource verb".
	refused map[string]bool
}

func newConnection(log *slog.Logger) *availability {
	return &availability{log: log, failing: map[string]bool{}, refused: map[string]bool{}}
}

// observe takes note of what became of a request.
func (c *availability) observe(verb string, r resource, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !answered(err) {
		c.fail(r.name, err)
		return
	}
	c.answer(r.name)
	switch {
	case err == nil:
		for key := range c.refused {
			if strings.HasPrefix(key, r.name+" ") {
				delete(c.refused, key)
			}
		}
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		c.refuse(verb, r, err)
	}
}

// answered tells whether the server has answered a request as it had to: also by saying that it was wrong to ask, as it is
// for a stream that it does not know or for changes that it no longer knows.
func answered(err error) bool {
	if err == nil {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch code := status.Status().Code; code {
	case http.StatusUnauthorized, http.StatusTooManyRequests:
		return false
	default:
		return code >= 400 && code < 500
	}
}

func (c *availability) fail(name string, err error) {
	c.failing[name] = true
	if c.lost.IsZero() {
		c.lost = time.Now()
		c.log.Warn("the API server does not answer; until it does, everything stays as it was last known", "resource", name,
			"error", err)
	}
}

func (c *availability) answer(name string) {
	delete(c.failing, name)
	if !c.lost.IsZero() && len(c.failing) == 0 {
		c.log.Info("the API server answers again", "after", time.Since(c.lost).Round(time.Millisecond))
		c.lost = time.Time{}
	}
}

// refuse logs what is missing. What is optional may be missing.
func (c *availability) refuse(verb string, r resource, err error) {
	key := r.name + " " + verb
	if c.refused[key] {
		return
	}
	c.refused[key] = true
	level, message := slog.LevelError, "the API server refuses to tell of a resource: the right is missing"
	if apierrors.IsNotFound(err) {
		message = "the API server has no such resource"
	}
	if r.optional {
		level = slog.LevelInfo
	}
	c.log.Log(context.Background(), level, message, "verb", verb, "resource", r.version.WithResource(r.name).GroupResource(), "error", err)
}
