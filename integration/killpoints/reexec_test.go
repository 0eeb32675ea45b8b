package killpoints

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTermDuringExecution: a SIGTERM that arrives when nfproxy is about to execute itself again, for a changed configuration, ends
// it nevertheless: whether other threads are still there to take it or not, and in the first process of a container as well.
func TestTermDuringExecution(t *testing.T) {
	for _, c := range []struct {
		name       string
		namespaces uintptr
		toThread   bool
	}{
		{name: "other threads take it"},
		{name: "only the thread that executes is left", toThread: true},
		{name: "first process of a container", namespaces: unix.CLONE_NEWPID},
	} {
		t.Run(c.name, func(t *testing.T) { testTermDuringExecution(t, c.namespaces, c.toThread) })
	}
}

func testTermDuringExecution(t *testing.T, namespaces uintptr, toThread bool) {
	n := newNode(t)
	const restarted = 2 // the execution after that of the launcher
	executing := make(chan struct{})
	p := superviseIn(t, namespaces, func(p *supervised, c call) {
		if c.number != unix.SYS_EXECVE || c.nth != restarted {
			return
		}
		if toThread {
			unix.Tgkill(p.Cmd.Process.Pid, c.thread, unix.SIGTERM)
		} else {
			p.Cmd.Process.Signal(syscall.SIGTERM)
		}
		time.Sleep(100 * time.Millisecond) // a thread that takes the signal has taken it
		close(executing)
	}, n.args()...)
	p.AwaitLog("in sync")
	n.configure("10.245.0.0/16")
	<-executing
	state := p.await(t)
	status := state.Sys().(syscall.WaitStatus)
	if !state.Success() && status.Signal() != syscall.SIGTERM && !(namespaces != 0 && status.ExitStatus() == 2) {
		t.Errorf("the process ends with %s", state)
	}
	if n := p.executions(); n != restarted {
		t.Errorf("%d executions", n)
	}
}
