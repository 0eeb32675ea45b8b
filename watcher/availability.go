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

// availability tracks whether the API server answers the requests for each resource. It logs once when the API server
// becomes unavailable, once when it is available again, and once for each kind of request that the server denies.
type availability struct {
	log *slog.Logger

	mu sync.Mutex
	// unanswered are the resources whose last request was not answered. unavailableSince is when the first of these requests
	// failed; it is zero while the API server is available.
	unanswered       map[string]bool
	unavailableSince time.Time
	// denied are the requests that the server has denied, as "resource verb".
	denied map[string]bool
}

func newAvailability(log *slog.Logger) *availability {
	return &availability{log: log, unanswered: map[string]bool{}, denied: map[string]bool{}}
}

// observe records the result of a request.
func (a *availability) observe(verb string, r resource, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !isAnswer(err) {
		a.unanswer(r.name, err)
		return
	}
	a.answer(r.name)
	switch {
	case err == nil:
		for key := range a.denied {
			if strings.HasPrefix(key, r.name+" ") {
				delete(a.denied, key)
			}
		}
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		a.deny(verb, r, err)
	}
}

// isAnswer reports whether the result of a request shows that the API server is available. Most client errors do, such as
// those for a stream that the server does not support or for a resource version that has expired.
func isAnswer(err error) bool {
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

// isStatus reports whether an error is the status of a response.
func isStatus(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

func (a *availability) unanswer(resource string, err error) {
	a.unanswered[resource] = true
	if a.unavailableSince.IsZero() {
		a.unavailableSince = time.Now()
		a.log.Warn("the API server does not answer; the last known state stays in use", "resource", resource,
			"error", err)
	}
}

func (a *availability) answer(resource string) {
	delete(a.unanswered, resource)
	if !a.unavailableSince.IsZero() && len(a.unanswered) == 0 {
		a.log.Info("the API server answers again", "after", time.Since(a.unavailableSince).Round(time.Millisecond))
		a.unavailableSince = time.Time{}
	}
}

// deny logs that the server has denied a request. For an optional resource this is no error.
func (a *availability) deny(verb string, r resource, err error) {
	key := r.name + " " + verb
	if a.denied[key] {
		return
	}
	a.denied[key] = true
	level, message := slog.LevelError, "the API server denies access to a resource: RBAC permission is missing"
	if apierrors.IsNotFound(err) {
		message = "the API server has no such resource"
	}
	if r.optional {
		level = slog.LevelInfo
	}
	a.log.Log(context.Background(), level, message, "verb", verb, "resource", r.version.WithResource(r.name).GroupResource(), "error", err)
}
