package differential

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"nfproxy/integration/cluster"
	"nfproxy/logtest"
	"nfproxy/sandbox"
)

// process is a running proxy.
type process struct {
	cmd  *exec.Cmd
	log  *logtest.Buffer
	done chan struct{} // closed when the process has ended
}

// start starts a program in a namespace. The program does not survive the test.
func start(ns *sandbox.Namespace, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, log: &logtest.Buffer{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.Env = append(os.Environ(), cluster.OutsideEnv+"="+os.Getenv(cluster.OutsideEnv))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go ns.Do(func() error { // on a thread of its own: the kernel sends the death signal when that thread ends
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(p.done)
		}
		return nil
	})
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// stop kills the process: its rules stay.
func (p *process) stop() {
	if p != nil {
		p.cmd.Process.Kill() // an error means that the process has ended
		<-p.done
	}
}

// ended reports whether the process has ended by itself.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kubeProxyCommand returns the command that runs the real kube-proxy.
func kubeProxyCommand(config string) (*exec.Cmd, error) {
	path, err := filepath.Abs(".bin/kube-proxy")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("kube-proxy is not built: run `make controlplane` (%w)", err)
	}
	return exec.Command(path, "--config", config), nil
}

// nfproxyCommand returns the command that runs nfproxy.
func nfproxyCommand(t testing.TB, config string) *exec.Cmd {
	return cluster.Command(t, "run", "--config", config, "--maglev-table-size", strconv.Itoa(tableSize))
}
