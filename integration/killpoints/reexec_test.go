package killpoints

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTermDuringExecution: a SIGTERM that arrives when nfproxy is about to execute itself again, for a changed configuration, ends
// it nevertheless, also as the first process of a container, for which the kernel ignores signals without a handler.
func TestTermDuringExecution(t *testing.T) {
	for name, namespaces := range map[string]uintptr{"process": 0, "first process of a container": unix.CLONE_NEWPID} {
		t.Run(name, func(t *testing.T) { testTermDuringExecution(t, namespaces) })
	}
}

func testTermDuringExecution(t *testing.T, namespaces uintptr) {
	n := newNode(t)
	const restarted = 2 // the execution after that of the launcher
	executing := make(chan struct{})
	p := startIn(t, namespaces, func(p *supervised, c call) {
		if c.number != unix.SYS_EXECVE || c.nth != restarted {
			return
		}
		p.Cmd.Process.Signal(syscall.SIGTERM)
		time.Sleep(100 * time.Millisecond) // a thread that takes the signal has taken it
		close(executing)
	}, n.args()...)
	p.AwaitLog("in sync")
	n.configure("10.245.0.0/16")
	<-executing
	state := p.await(t)
	status := state.Sys().(syscall.WaitStatus)
	byRuntime := namespaces != 0 && status.ExitStatus() == 2 // Go's runtime ends the process if SIGTERM does not
	if !state.Success() && status.Signal() != syscall.SIGTERM && !byRuntime {
		t.Errorf("the process ends with %s", state)
	}
	if n := p.executions(); n != restarted {
		t.Errorf("%d executions", n)
	}
}
