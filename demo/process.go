package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// process is a running nfproxy: another process of the same program.
type process struct {
	cmd     *exec.Cmd
	commits chan commit
	ended   chan struct{} // closed when the process has ended and err is set
	err     error

	mu  sync.Mutex
	log bytes.Buffer
}

// commit is a transaction that nfproxy logged.
type commit struct {
	operations int           // elements added and deleted
	took       time.Duration // from computing the changes until the kernel has them
}

// committed matches the line that nfproxy logs after each transaction with verbosity 4.
var committed = regexp.MustCompile(`msg=committed operations=(\d+) took=(\S+)`)

// grace is the time that nfproxy may take to end after SIGTERM.
const grace = 5 * time.Second

// start runs nfproxy with the arguments in the directory dir. When ctx ends, it sends SIGTERM to the process.
func start(ctx context.Context, dir string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start nfproxy: %w", err)
	}
	p := &process{cmd: cmd, commits: make(chan commit, 1), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.follow(ctx, log)
		if err := cmd.Wait(); ctx.Err() == nil {
			p.err = errors.Join(errors.New("nfproxy ended during the demo"), err)
		}
	}()
	return p, nil
}

// follow stores the log and sends the commits in it to p.commits until the process closes the log.
func (p *process) follow(ctx context.Context, log io.Reader) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		p.mu.Lock()
		p.log.Write(append(lines.Bytes(), '\n'))
		p.mu.Unlock()
		m := committed.FindSubmatch(lines.Bytes())
		if m == nil {
			continue
		}
		operations, _ := strconv.Atoi(string(m[1]))
		took, _ := time.ParseDuration(string(m[2]))
		select {
		case p.commits <- commit{operations, took}:
		case <-ctx.Done():
		}
	}
}

// await waits for the next commit.
func (p *process) await(ctx context.Context) (commit, error) {
	select {
	case c := <-p.commits:
		return c, nil
	case <-p.ended:
		return commit{}, p.err
	case <-ctx.Done():
		return commit{}, fmt.Errorf("wait for nfproxy: %w", ctx.Err())
	}
}

// text returns the log so far.
func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}
