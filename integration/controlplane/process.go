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
	// grace is how long a program may take to end after SIGTERM.
	grace = 10 * time.Second
	// interval is the time between two readiness checks.
	interval = 50 * time.Millisecond
	// logTail is the number of bytes at the end of a log that a failed test prints.
	logTail = 8 << 10
)

// process is a program that runs in a network namespace.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string // path

	exited  chan struct{} // closed when the program has ended
	err     error         // of Cmd.Wait; valid once exited is closed
	stopped bool          // stop was called, or the early end was reported
}

// startProcess runs a program in ns until stop or the end of the test. Its working
// directory is dir, which also holds its log.
func startProcess(t testing.TB, ns *sandbox.Namespace, dir, name string, args ...string) *process {
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
	cmd.Env = []string{"HOME=" + dir} // without the user's proxies and kubeconfig
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{name: name, cmd: cmd, log: log.Name(), exited: make(chan struct{})}
	if err := p.run(ns); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, p.tail())
		}
	})
	return p
}

// run starts the program. A child inherits the namespace of the thread that
// starts it, and its parent death signal is sent when that thread ends. The
// thread therefore stays in ns for as long as the program runs.
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
		return nil // the program has ended already, which await reports
	default:
		return p.err
	}
}

// stop ends the program, and fails the test if the program had ended before.
// Stopping it twice is not an error.
func (p *process) stop(t testing.TB) {
	t.Helper()
	if p.stopped {
		return
	}
	p.stopped = true
	select {
	case <-p.exited:
		t.Errorf("%s has ended early: %v", p.name, p.err)
		return
	default:
	}
	p.cmd.Process.Signal(syscall.SIGTERM) // fails if the program has ended since
	select {
	case <-p.exited:
	case <-time.After(grace):
		t.Logf("%s did not end within %v of SIGTERM and is killed", p.name, grace)
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// await calls ready until it returns no error. The test fails if the program
// ends meanwhile or does not become ready in time.
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
			t.Fatalf("%s ended before it was ready: %v", p.name, p.err)
		case <-ctx.Done():
			t.Fatalf("%s is not ready after %v: %v", p.name, patience, err)
		case <-time.After(interval):
		}
	}
}

// try calls ready once and gives it five seconds.
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
