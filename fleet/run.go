package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Limits bound a run.
type Limits struct {
	// Parallel is how many nodes are asked at the same time.
	Parallel int
	// PerNode is how long a node may take.
	PerNode time.Duration
}

// Run runs nfproxy with arguments on all targets, and returns their answers in the order of the targets. take is called with the index of
// each answer, one call at a time. It decodes the answer, so that outputs do not fill the memory.
func (c *Client) Run(ctx context.Context, targets []Target, args []string, l Limits, take func(i int, a *Answer)) []Answer {
	answers := make([]Answer, len(targets))
	next := make(chan int)
	var mu sync.Mutex
	var running sync.WaitGroup
	for range min(l.Parallel, len(targets)) {
		running.Go(func() {
			for i := range next {
				answers[i] = c.exec(ctx, targets[i], args, l.PerNode)
				mu.Lock()
				take(i, &answers[i])
				mu.Unlock()
			}
		})
	}
	for i := range targets {
		next <- i
	}
	close(next)
	running.Wait()
	return answers
}

// killed is the exit code of a process that SIGKILL has ended, as container runtimes report it.
const killed = 128 + 9

// Decode decodes the JSON that a command printed, and drops the command's output. The JSON must be an object with the field, so that the
// answer of another program is not mistaken for one. Without such an object the answer becomes a failure that says why. version is that of
// this program, for commands that the nfproxy on the node does not know.
func (a *Answer) Decode(into any, field, version string) {
	if a.Failure != "" {
		return
	}
	err := unmarshalWith(field, a.stdout, into)
	said := oneLine(string(a.stderr))
	a.stdout, a.stderr = nil, nil
	if err == nil {
		return
	}
	switch {
	case strings.Contains(said, "unknown command") || strings.Contains(said, "flag provided but not defined"):
		a.Failure = fmt.Sprintf("the nfproxy there is another version and does not know this command (image %s, this plugin is %s): %s", a.Image, version, said)
	case a.exitCode != 0 && said != "":
		a.Said = strings.TrimPrefix(said, "nfproxy: ")
		a.Failure = a.Said
	case a.exitCode == killed:
		a.Failure = fmt.Sprintf("the command was killed (exit code %d), perhaps at the memory limit of the container", killed)
	case a.exitCode != 0:
		a.Failure = fmt.Sprintf("exit code %d without a message", a.exitCode)
	default:
		a.Failure = fmt.Sprintf("its answer cannot be read (image %s, this plugin is %s): %s", a.Image, version, oneLine(err.Error()))
	}
	a.Failure += a.suffix()
}

// unmarshalWith decodes a JSON object that must have a field.
func unmarshalWith(field string, text []byte, into any) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	if _, ok := fields[field]; !ok {
		return fmt.Errorf("it has no field %q", field)
	}
	return json.Unmarshal(text, into)
}
