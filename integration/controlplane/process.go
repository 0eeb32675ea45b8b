//go:build linux

package controlplane

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"nfproxy/sandbox"
)

const (
	// patience is how long a program may take until it is ready.
	patience = 90 * time.Second
	// grace is how long it may take to end after SIGTERM.
	grace = 10 * time.Second
	// interval lies between two questions whether it is ready.
	interval = 50 * time.Millisecond
	// logTail is how much of a log a failed test prints, in bytes.
	logTail = 8 << 10
)

// process is one of the programs, running in a network namespace.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string // path

	exited  chan struct{} // closed when it has ended
	err     error         // how it ended, after that
	stopped bool          // or found to have ended
}

// start runs a program in ns, with files and its log in dir, until stop or the
// end of the test.
func start(t testing.TB, ns *sandbox.Namespace, dir, name string, args ...string) *process {
	t.Helper()
	path, err := binary(name)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir} // no proxies, no kubeconfig of somebody's
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{name: name, cmd: cmd, log: log.Name(), exited: make(chan struct{})}
	if err := p.run(ns); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("the log of %s ends with:\n%s", name, p.tail())
		}
	})
	return p
}

// run starts the program. A child is born in its parent thread's namespace,
// and its parent death signal is sent when that thread ends: the thread stays
// in ns for as long as the program runs.
func (p *process) run(ns *sandbox.Namespace) error {
	started := make(chan struct{})
	go func() {
		defer close(p.exited)
		p.err = ns.Do(func() error {
			if err := p.cmd.Start(); err != nil {
				return err
			}
			close(started)
			return p.cmd.Wait()
		})
	}()
	select {
	case <-started:
		return nil
	case <-p.exited:
	}
	select {
	case <-started:
		return nil // it has run, and await says how it ended
	default:
		return p.err
	}
}

// stop ends the program, and fails the test if it had ended by itself. Stopping
// twice is no error.
func (p *process) stop(t testing.TB) {
	t.Helper()
	if p.stopped {
		return
	}
	p.stopped = true
	select {
	case <-p.exited:
		t.Errorf("%s has ended: %v", p.name, p.err)
		return
	default:
	}
	p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended since
	select {
	case <-p.exited:
	case <-time.After(grace):
		t.Logf("%s does not end within %v of SIGTERM: killed", p.name, grace)
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// await asks ready until it returns no error. The test fails if the program
// ends meanwhile, or takes too long.
func (p *process) await(t testing.TB, ready func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := p.try(ctx, ready)
		if err == nil {
			return
		}
		select {
		case <-p.exited:
			p.stopped = true
			t.Fatalf("%s has ended before it was ready: %v", p.name, p.err)
		case <-ctx.Done():
			t.Fatalf("%s is not ready after %v: %v", p.name, patience, err)
		case <-time.After(interval):
		}
	}
}

// try asks once. An answer that takes seconds is as good as none.
func (p *process) try(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return ready(ctx)
}

// tail returns the end of the log.
func (p *process) tail() string {
	log, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprintf("read %s: %v", filepath.Base(p.log), err)
	}
	if len(log) > logTail {
		log = log[len(log)-logTail:]
		_, log, _ = bytes.Cut(log, []byte("\n"))
	}
	return string(log)
}
