package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"nfproxy/logtest"
	"nfproxy/sandbox"
)

// Process is a program that a test has started: nfproxy or kube-proxy.
type Process struct {
	t    testing.TB
	Cmd  *exec.Cmd
	Log  *logtest.Buffer // standard output and standard error
	Done chan error      // holds the error of Cmd.Wait once the process has ended; a receiver puts it back
}

// startAgent starts nfproxy run on the cluster's node, with the service account of deploy/rbac.yaml.
func (c *Cluster) startAgent(flags ...string) *Process {
	c.T.Helper()
	kubeconfig := c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy"))
	return StartDaemon(c.T, append(AgentArgs(kubeconfig, NodeName), flags...)...)
}

// AgentArgs returns the arguments with which nfproxy runs on a node in a sandbox, where it may not change the sysctls of the machine.
func AgentArgs(kubeconfig, node string) []string {
	return []string{"run", "--kubeconfig", kubeconfig, "--hostname-override", node,
		"--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48", "--conntrack-max-per-core", "0", "--oom-score-adj", "0"}
}

// StartDaemon starts nfproxy with these arguments, as StartProcess does.
func StartDaemon(t testing.TB, args ...string) *Process {
	t.Helper()
	cmd := Command(t, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return StartProcess(t, cmd)
}

// StartProcess starts a command, whose SysProcAttr must be set, in the tests' namespace. The process is killed when the test
// ends, at the latest.
func StartProcess(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	here, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	return StartProcessIn(t, here, cmd)
}

// StartProcessIn is StartProcess in another network namespace.
func StartProcessIn(t testing.TB, ns *sandbox.Namespace, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, Cmd: cmd, Log: &logtest.Buffer{}, Done: make(chan error, 1)}
	p.Cmd.Env = append(os.Environ(), OutsideEnv+"="+os.Getenv(OutsideEnv))
	p.Cmd.Stdout, p.Cmd.Stderr = p.Log, p.Log
	p.Cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 2)
	go func() {
		started <- ns.Do(func() error { // on a thread of its own: the kernel sends the death signal when that thread ends
			err := p.Cmd.Start()
			started <- err
			if err == nil {
				p.Done <- p.Cmd.Wait()
			}
			return nil
		})
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.End(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("log of %s:\n%s", filepath.Base(p.Cmd.Args[0]), p.Log)
		}
	})
	return p
}

// End sends a signal that ends the process and waits until it has ended. Calling End twice is not an error.
func (p *Process) End(s syscall.Signal) {
	_ = p.Cmd.Process.Signal(s) // an error means that the process has ended
	err := <-p.Done
	p.Done <- err
}

// Stop ends the process with SIGTERM, as a kubelet does, and fails the test unless the process exits with status 0.
func (p *Process) Stop() {
	p.t.Helper()
	p.End(syscall.SIGTERM)
	if err := <-p.Done; err != nil {
		p.t.Errorf("%s after SIGTERM: %v", filepath.Base(p.Cmd.Args[0]), err)
	}
	p.Done <- nil
}

// AwaitLog waits until the log contains a text.
func (p *Process) AwaitLog(text string) {
	p.t.Helper()
	EventuallyTrue(p.t, fmt.Sprintf("the log contains %q", text), func() (bool, string) {
		return strings.Contains(p.Log.String(), text), p.Log.String()
	})
}

// CombinedOutput runs a program in the tests' namespace and returns its standard output and standard error.
func CombinedOutput(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// OutsideEnv is the environment variable by which a child process recognises that it runs in the sandbox (package sandbox).
const OutsideEnv = "NFPROXY_SANDBOX_OUTSIDE"

// Command returns a command that runs nfproxy with these arguments. The program is the test binary itself, which
// testscript.Main puts into the path under that name.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("nfproxy")
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}
