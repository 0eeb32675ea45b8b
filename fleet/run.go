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

// Run runs nfproxy with arguments on all targets, and returns their answers in the order of the targets. done is called after each, one
// call at a time, with the number of answers so far.
func (c *Client) Run(ctx context.Context, targets []Target, args []string, l Limits, done func(answers int)) []Answer {
	answers := make([]Answer, len(targets))
	next := make(chan int)
	var mu sync.Mutex
	finished := 0
	var running sync.WaitGroup
	for range min(l.Parallel, len(targets)) {
		running.Go(func() {
			for i := range next {
				answers[i] = c.exec(ctx, targets[i], args, l.PerNode)
				mu.Lock()
				finished++
				done(finished)
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

// Decode decodes the JSON that a command printed. If it printed none, the answer becomes a failure that says why. version is that of
// this program, for commands that the nfproxy on the node does not know.
func (a *Answer) Decode(into any, version string) {
	if a.Failure != "" {
		return
	}
	err := json.Unmarshal(a.Stdout, into)
	if err == nil {
		return
	}
	said := oneLine(string(a.Stderr))
	switch {
	case strings.Contains(said, "unknown command") || strings.Contains(said, "flag provided but not defined"):
		a.Failure = fmt.Sprintf("the nfproxy there is another version and does not know this command (image %s, this plugin is %s): %s", a.Image, version, said)
	case a.ExitCode != 0 && said != "":
		a.Said = strings.TrimPrefix(said, "nfproxy: ")
		a.Failure = a.Said
	case a.ExitCode != 0:
		a.Failure = fmt.Sprintf("exit code %d without a message", a.ExitCode)
	default:
		a.Failure = fmt.Sprintf("its answer cannot be read: %v", err)
	}
	a.Failure += a.suffix()
}
