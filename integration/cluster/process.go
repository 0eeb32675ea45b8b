package cluster

import (
	"fmt"
	"nfproxy/logtest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// process is nfproxy as a process, with the rights it is shipped with.
type Process struct {
	t    testing.TB
	Cmd  *exec.Cmd
	Log  *logtest.Buffer
	Done chan error
}

// startAgent starts nfproxy run on the cluster's node.
func (c *Cluster) startAgent(flags ...string) *Process {
	c.T.Helper()
	kubeconfig := c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy"))
	args := append([]string{"run", "--kubeconfig", kubeconfig, "--hostname-override", NodeName,
		"--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48", "--conntrack-max-per-core", "0", "--oom-score-adj", "0"}, flags...)
	return StartDaemon(c.T, args...)
}

func StartDaemon(t testing.TB, args ...string) *Process {
	t.Helper()
	cmd := Command(t, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return StartProcess(t, cmd)
}

// startProcess starts a process that ends with the test at the latest.
func StartProcess(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, Cmd: cmd, Log: &logtest.Buffer{}, Done: make(chan error, 1)}
	p.Cmd.Env = append(os.Environ(), OutsideEnv+"="+os.Getenv(OutsideEnv))
	p.Cmd.Stdout, p.Cmd.Stderr = p.Log, p.Log
	p.Cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal is sent when the thread ends that started the process
		err := p.Cmd.Start()
		started <- err
		if err == nil {
			p.Done <- p.Cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.End(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the log of %s:\n%s", filepath.Base(p.Cmd.Args[0]), p.Log)
		}
	})
	return p
}

// end ends the process by a signal and waits until it has. Ending it twice is no error.
func (p *Process) End(s syscall.Signal) {
	_ = p.Cmd.Process.Signal(s) // an error says that it has ended
	err := <-p.Done
	p.Done <- err
}

// stop ends the process as a kubelet does, and fails the test if that is not to its liking.
func (p *Process) Stop() {
	p.t.Helper()
	p.End(syscall.SIGTERM)
	if err := <-p.Done; err != nil {
		p.t.Errorf("nfproxy ended with %v", err)
	}
	p.Done <- nil
}

// says waits until the log has a text.
func (p *Process) AwaitLog(text string) {
	p.t.Helper()
	EventuallyTrue(p.t, fmt.Sprintf("the log says %q", text), func() (bool, string) {
		return strings.Contains(p.Log.String(), text), p.Log.String()
	})
}

// command runs a program in the tests' namespace.
func CombinedOutput(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// outsideEnv is how a child of the sandbox knows that it is in it.
const OutsideEnv = "NFPROXY_SANDBOX_OUTSIDE"

// nfproxy is the test binary as nfproxy; testscript.Main puts it in the path.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("nfproxy")
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}
