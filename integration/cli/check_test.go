package cli

import (
	"bytes"
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
)

// TestCheckWithoutPrivilege: without CAP_NET_ADMIN, the check reports that and its other findings, with exit code 1.
func TestCheckWithoutPrivilege(t *testing.T) {
	cmd := cluster.Command(t, "check")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"problem  privileges             no access to nftables: CAP_NET_ADMIN is missing\n",
		"what to do: run nfproxy as root, or grant it CAP_NET_ADMIN\n", "warning  namespace ", "ok       ipvs ", "\nnfproxy: problems on this node: 1\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestCheckWithNetAdminAlone: with CAP_NET_ADMIN, which nfproxy run needs, but without CAP_SYS_ADMIN, the check names what it
// could not try out and makes the other checks.
func TestCheckWithNetAdminAlone(t *testing.T) {
	cmd := cluster.Command(t, "check")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := make(chan error)
	go func() {
		// A process started from this thread lacks the capability, even as root. The thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	if err := errors.Join(<-started, cmd.Wait()); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"ok       privileges ", "warning  namespace ", "or grant it CAP_SYS_ADMIN; ", "ok       nfproxy-tables "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "numgen") {
		t.Errorf("kernel features were tried out without a namespace:\n%s", out.String())
	}
}
