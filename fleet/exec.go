package fleet

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// maxOutput is the largest standard output of a command in bytes. Beyond it the command's answer is an error.
const maxOutput = 64 << 20

// Answer is what a node answers to a command.
type Answer struct {
	Target
	// Failure is why there is no answer, empty if there is one. If it is an error that nfproxy on the node printed, Said is that error.
	Failure, Said string

	stdout, stderr []byte // until Decode
	exitCode       int
}

// exec runs nfproxy with arguments in a container, for at most limit.
func (c *Client) exec(ctx context.Context, t Target, args []string, limit time.Duration) Answer {
	a := Answer{Target: t}
	if t.Missing != "" {
		a.Failure = t.Missing + t.suffix()
		return a
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stdout, stderr := output{max: maxOutput}, output{max: maxMessage + 1, cut: true}
	err := c.streamUntil(ctx, t, args, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if exit, ok := errors.AsType[exec.CodeExitError](err); ok {
		a.exitCode, err = exit.Code, nil
	}
	if err == nil {
		err = stdout.err()
	}
	if err != nil {
		a.Failure = execReason(ctx, t, limit, err)
		return a
	}
	a.stdout, a.stderr = stdout.bytes(), stderr.bytes()
	return a
}

// streamUntil is stream, but returns when ctx is done. client-go does not heed the context while it waits for the answer to the request
// for an upgrade: over WebSocket it heeds the deadline alone, over SPDY neither. Such a request is abandoned.
func (c *Client) streamUntil(ctx context.Context, t Target, args []string, streams remotecommand.StreamOptions) error {
	ended := make(chan error, 1)
	go func() { ended <- c.stream(ctx, t, args, streams) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stream runs the command over WebSocket or, if the API server or a proxy in front of it does not allow that, over SPDY.
func (c *Client) stream(ctx context.Context, t Target, args []string, streams remotecommand.StreamOptions) error {
	at := c.execURL(t, args)
	websocket, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, at.String())
	if err != nil {
		return err
	}
	spdy, err := remotecommand.NewSPDYExecutor(c.config, http.MethodPost, at)
	if err != nil {
		return err
	}
	var first error // of WebSocket
	executor, err := remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		first = cause(err)
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return err
	}
	err = executor.StreamWithContext(ctx, streams)
	if err != nil && apierrors.IsForbidden(first) && strings.Contains(err.Error(), "forbidden") { // the error of SPDY is only a text
		reason := strings.TrimPrefix(oneLine(err.Error()), "unable to upgrade connection: ")
		return &ForbiddenError{Verb: execVerb(reason), Resource: "pods/exec", Namespace: t.Namespace, Reason: reason}
	}
	return err
}

// execVerb returns the verb that the API server's answer names. WebSocket needs get and create, SPDY create.
func execVerb(reason string) string {
	if strings.Contains(reason, "cannot get ") {
		return "get"
	}
	return "create"
}

// output is a buffer of bounded size. A stream may write to it after the command has been given up.
type output struct {
	max int  // bytes
	cut bool // what exceeds max is discarded; otherwise it is an error

	mu       sync.Mutex
	content  []byte
	overflow bool
}

// errOutput is the error of a command with too much output.
var errOutput = errors.New("the output is larger than 64 MiB")

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := o.max - len(o.content); len(p) > room {
		if !o.cut {
			o.overflow = true
			return 0, errOutput
		}
		o.content = append(o.content, p[:room]...)
		return len(p), nil
	}
	o.content = append(o.content, p...)
	return len(p), nil
}

// bytes returns what was written so far. A later Write does not change it.
func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.content[:len(o.content):len(o.content)]
}

func (o *output) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.overflow {
		return errOutput
	}
	return nil
}
