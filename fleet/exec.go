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

// maxOutput is the largest output of a command in bytes. Beyond it the command's answer is an error.
const maxOutput = 64 << 20

// Answer is what a node answers to a command.
type Answer struct {
	Target
	Stdout, Stderr []byte
	ExitCode       int
	// Failure is why there is no answer, empty if there is one. If it is an error that nfproxy on the node printed, Said is that error.
	Failure, Said string
	Took          time.Duration
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
	start := time.Now()
	var stdout, stderr output
	err := c.stream(ctx, t, args, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	a.Took, a.Stdout, a.Stderr = time.Since(start), stdout.bytes(), stderr.bytes()
	if exit, ok := errors.AsType[exec.CodeExitError](err); ok {
		a.ExitCode, err = exit.Code, nil
	}
	if err == nil {
		err = errors.Join(stdout.err(), stderr.err())
	}
	if err != nil {
		a.Failure = execReason(ctx, t, limit, err)
	}
	return a
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
	mu       sync.Mutex
	content  []byte
	overflow bool
}

// errOutput is the error of a command with too much output.
var errOutput = errors.New("the output is larger than 64 MiB")

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.content)+len(p) > maxOutput {
		o.overflow = true
		return 0, errOutput
	}
	o.content = append(o.content, p...)
	return len(p), nil
}

// bytes returns a copy of what was written so far.
func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]byte(nil), o.content...)
}

func (o *output) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.overflow {
		return errOutput
	}
	return nil
}
