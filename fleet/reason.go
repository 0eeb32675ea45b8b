package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/streaming/pkg/httpstream"
)

// ForbiddenError is the error of a request for which the user lacks a right.
type ForbiddenError struct {
	// Verb, Resource and Namespace are the right that is missing; the namespace is empty for all namespaces, or for a resource without
	// namespaces. Reason is the API server's answer.
	Verb, Resource, Namespace, Reason string
}

func (e *ForbiddenError) Error() string {
	where := "in all namespaces"
	if e.Namespace != "" {
		where = "in namespace " + e.Namespace
	}
	if e.Resource == "nodes" {
		where = "in the cluster"
	}
	return fmt.Sprintf("you lack the right to %s %s %s: %s", e.Verb, e.Resource, where, e.Reason)
}

// inWords returns an error of a request with what was requested.
func inWords(verb, resource, namespace string, err error) error {
	status, isStatus := errors.AsType[*apierrors.StatusError](cause(err))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s %s: interrupted", verb, resource)
	case isStatus && apierrors.IsForbidden(status):
		return &ForbiddenError{verb, resource, namespace, oneLine(status.ErrStatus.Message)}
	case isStatus && apierrors.IsUnauthorized(status):
		return fmt.Errorf("%s %s: the API server does not accept the credentials: %s", verb, resource, oneLine(status.ErrStatus.Message))
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s: the API server does not answer: %w", verb, resource, err)
	}
	return fmt.Errorf("%s %s: %w", verb, resource, err)
}

// cause returns why a connection was not upgraded, or err itself.
func cause(err error) error {
	if upgrade, ok := errors.AsType[*httpstream.UpgradeFailureError](err); ok && upgrade.Cause != nil {
		return upgrade.Cause
	}
	return err
}

// execReason returns in words why a command did not run on a node, or did not end.
func execReason(ctx context.Context, t Target, limit time.Duration, err error) string {
	deadline, _ := ctx.Deadline()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded),
		errors.Is(err, os.ErrDeadlineExceeded) && time.Until(deadline) < time.Second: // the connection has the same deadline, and its timer can be first
		return fmt.Sprintf("no answer within %s", limit) + t.suffix()
	case ctx.Err() != nil:
		return "interrupted"
	}
	if forbidden, ok := errors.AsType[*ForbiddenError](err); ok {
		return forbidden.Error()
	}
	return oneLine(inWords("exec in", "pod "+t.Pod, t.Namespace, err).Error()) + t.suffix()
}

// maxMessage is the length in bytes from which the message of a node or of the API server is cut.
const maxMessage = 4 << 10

// oneLine returns a message in one line, without what exceeds maxMessage.
func oneLine(text string) string {
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + " ..."
	}
	return strings.Join(strings.Fields(text), " ")
}
