package fleet

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"
)

// TestExecHangs: if the API server does not complete the upgrade of a connection, over WebSocket or over SPDY, the node's time limit and
// an interruption end the command nevertheless.
func TestExecHangs(t *testing.T) {
	for _, c := range []struct {
		name        string
		noWebSocket bool
		limit       time.Duration
		want        string
	}{
		{"WebSocket, limit", false, 100 * time.Millisecond, "no answer within 100ms"},
		{"WebSocket, interrupted", false, time.Minute, "interrupted"},
		{"SPDY, limit", true, 100 * time.Millisecond, "no answer within 100ms"},
		{"SPDY, interrupted", true, time.Minute, "interrupted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			arrived, end := make(chan struct{}, 1), make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.noWebSocket && r.Method == http.MethodGet {
					http.Error(w, "no WebSocket here", http.StatusBadRequest)
					return
				}
				arrived <- struct{}{}
				<-end
			}))
			defer server.Close()
			defer close(end)
			client, err := NewClient(&rest.Config{Host: server.URL}, "test")
			if err != nil {
				t.Fatal(err)
			}
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			answered := make(chan Answer, 1)
			go func() {
				answered <- client.exec(ctx, Target{Node: "a", Namespace: "n", Pod: "p", Container: "c", Program: program}, []string{"status"}, c.limit)
			}()
			if c.limit == time.Minute {
				<-arrived
				interrupt()
			}
			select {
			case a := <-answered:
				if a.Failure != c.want {
					t.Errorf("%q, want %q", a.Failure, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("no end within 10 s")
			}
		})
	}
}

// commands is the exec endpoint of an API server, with commands by name.
type commands map[string]command

// command is what a command prints, and its exit code. It prints each text so often that the size is reached.
type command struct {
	stdout, stderr string
	size, code     int
}

func (c commands) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	remotecommand.ServeExec(w, r, c, "p", "", "c", r.URL.Query()["command"], &remotecommand.Options{Stdout: true, Stderr: true},
		time.Minute, 10*time.Second, []string{remotecommand.StreamProtocolV4Name})
}

// ExecInContainer implements remotecommand.Executor.
func (c commands) ExecInContainer(_ context.Context, _, _, _ string, words []string, _ io.Reader, stdout, stderr io.WriteCloser, _ bool,
	_ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	of := c[words[1]]
	if err := errors.Join(fill(stdout, of.stdout, of.size), fill(stderr, of.stderr, of.size)); err != nil {
		return err
	}
	if of.code != 0 {
		return exec.CodeExitError{Err: errors.New("exit"), Code: of.code}
	}
	return nil
}

// fill writes a text once, or as often as is needed for a size.
func fill(w io.Writer, text string, size int) error {
	if size > 0 && text != "" {
		text = strings.Repeat(text, 1<<16/len(text))
	}
	for n := 0; text != "" && (n == 0 || n < size); n += len(text) {
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

// TestExecOutputs: the answer is what a command prints, or the reason why that is no answer. Its size is bounded.
func TestExecOutputs(t *testing.T) {
	const unreadable = "its answer cannot be read (image nfproxy:v0, this plugin is v1): "
	all := commands{
		"fine":    {stdout: `{"ready":true}`},
		"problem": {stdout: `{"ready":true}`, stderr: "nfproxy: problems of the daemon: 1", code: 1},
		"endless": {stdout: " ", size: 2 * maxOutput},
		"noisy":   {stderr: "nfproxy: é", size: 10 * maxMessage, code: 1},
		"killed":  {stdout: `{"ready":tr`, code: killed},
		"silent":  {code: 3},
		"null":    {stdout: "null"},
		"other":   {stdout: `{"unready":true}`},
		"twice":   {stdout: `{"ready":false}{"ready":false}`},
		"older":   {stderr: "nfproxy: unknown command \"older\"; nfproxy --help lists the commands\n", code: 1},
	}
	server := httptest.NewServer(all)
	defer server.Close()
	client, err := NewClient(&rest.Config{Host: server.URL}, "test")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"fine":    "",
		"problem": "",
		"endless": "the output is larger than 64 MiB",
		"noisy":   "nfproxy: énfproxy: é",
		"killed":  "the command was killed (exit code 137), perhaps at the memory limit of the container",
		"silent":  "exit code 3 without a message",
		"null":    unreadable + `it has no field "ready"`,
		"other":   unreadable + `it has no field "ready"`,
		"twice":   unreadable + "invalid character '{' after top-level value",
		"older":   `the nfproxy there is another version and does not know this command (image nfproxy:v0, this plugin is v1): nfproxy: unknown command "older"`,
	} {
		var into struct{ Ready bool }
		targets := []Target{{Node: "a", Namespace: "n", Pod: "p", Container: "c", Image: "nfproxy:v0", Program: program}}
		answers := client.Run(t.Context(), targets, []string{name}, Limits{Parallel: 1, PerNode: time.Minute},
			func(_ int, a *Answer) { a.Decode(&into, "ready", "v1") })
		if a := answers[0]; !strings.Contains(a.Failure, want) || (want == "") != (a.Failure == "") || into.Ready != (want == "") ||
			len(a.Failure) > 2*maxMessage || len(a.stdout)+len(a.stderr) > 0 {
			t.Errorf("%s: %.300q, %d bytes, ready %v", name, a.Failure, len(a.Failure), into.Ready)
		}
	}
}

// TestFindInterrupted: the error of a list that is interrupted says so.
func TestFindInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		interrupt()
		<-r.Context().Done()
	}))
	defer server.Close()
	client, err := NewClient(&rest.Config{Host: server.URL}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Find(ctx, Query{}); err == nil || err.Error() != "list daemonsets: interrupted" {
		t.Error(err)
	}
}
