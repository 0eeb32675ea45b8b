package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// process is nfproxy as a process, with the rights it is shipped with.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  *lines
	done chan error
}

// startAgent starts nfproxy run on the cluster's node.
func (c *testCluster) startAgent(flags ...string) *process {
	c.t.Helper()
	kubeconfig := c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy"))
	args := append([]string{"run", "--kubeconfig", kubeconfig, "--hostname-override", clusterNode,
		"--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48", "--conntrack-max-per-core", "0", "--oom-score-adj", "0"}, flags...)
	return startAgent(c.t, args...)
}

func startAgent(t testing.TB, args ...string) *process {
	t.Helper()
	cmd := nfproxy(t, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return startProcess(t, cmd)
}

// startProcess starts a process that ends with the test at the latest.
func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, log: &lines{}, done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), outsideEnv+"="+os.Getenv(outsideEnv))
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal is sent when the thread ends that started the process
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.done <- p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the log of %s:\n%s", filepath.Base(p.cmd.Args[0]), p.log)
		}
	})
	return p
}

// end ends the process by a signal and waits until it has. Ending it twice is no error.
func (p *process) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // an error says that it has ended
	err := <-p.done
	p.done <- err
}

// stop ends the process as a kubelet does, and fails the test if that is not to its liking.
func (p *process) stop() {
	p.t.Helper()
	p.end(syscall.SIGTERM)
	if err := <-p.done; err != nil {
		p.t.Errorf("nfproxy ended with %v", err)
	}
	p.done <- nil
}

// says waits until the log has a text.
func (p *process) says(text string) {
	p.t.Helper()
	eventuallyTrue(p.t, fmt.Sprintf("the log says %q", text), func() (bool, string) {
		return strings.Contains(p.log.String(), text), p.log.String()
	})
}

// eventuallyTrue waits for what must happen.
func eventuallyTrue(t testing.TB, what string, holds func() (ok bool, otherwise string)) {
	t.Helper()
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(20 * time.Millisecond) {
		ok, otherwise := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s; %s", what, otherwise)
		}
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// command runs a program in the tests' namespace.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// outsideEnv is how a child of the sandbox knows that it is in it.
const outsideEnv = "NFPROXY_SANDBOX_OUTSIDE"

// nfproxy is the test binary as nfproxy; testscript.Main puts it in the path.
func nfproxy(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("nfproxy")
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}
