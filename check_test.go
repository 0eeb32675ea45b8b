package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/agent/preflight"
)

// TestCheckWithoutPrivilege: who may not program nftables gets the report, with that in it, and exit code 1.
func TestCheckWithoutPrivilege(t *testing.T) {
	cmd := nfproxy(t, "check")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"problem  privileges             nftables cannot be read or changed without CAP_NET_ADMIN\n",
		"what to do: run as root, or grant that capability\n", "warning  namespace ", "ok       ipvs ", "\nnfproxy: this node has problems: 1\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestCheckWithNetAdminAlone: with what nfproxy run needs and no more, the check says what it could not try out, and the
// rest of it is made.
func TestCheckWithNetAdminAlone(t *testing.T) {
	cmd := nfproxy(t, "check")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := make(chan error)
	go func() {
		// Who is started from this thread has no such capability, root or not. The thread ends with the goroutine.
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
	for _, want := range []string{"ok       privileges ", "warning  namespace ", "grant CAP_SYS_ADMIN for the check alone", "ok       nfproxy-tables "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "numgen") {
		t.Errorf("the kernel was tried out:\n%s", out.String())
	}
}

// TestCheckReport: what is printed, as text and for programs, and the error that makes the exit code.
func TestCheckReport(t *testing.T) {
	fine := preflight.Line{Level: preflight.OK, Check: "kernel", Finding: "Linux 6.1"}
	odd := preflight.Line{Level: preflight.Warning, Check: "ipvs", Finding: "2 < 3 & more", Advice: "look"}
	bad := preflight.Line{Level: preflight.Problem, Check: "teapot", Finding: "none", Advice: "modprobe nft_teapot"}
	var text bytes.Buffer
	if err := report([]preflight.Line{fine, odd, bad}, checkText, &text); err == nil || err.Error() != "this node has problems: 1" {
		t.Error(err)
	}
	const want = "ok       kernel                 Linux 6.1\n" +
		"warning  ipvs                   2 < 3 & more\n                                what to do: look\n" +
		"problem  teapot                 none\n                                what to do: modprobe nft_teapot\n" +
		"ok: 1, warnings: 1, problems: 1\n"
	if text.String() != want {
		t.Errorf("%s", text.String())
	}
	for _, c := range []struct {
		lines []preflight.Line
		want  preflight.Level
	}{{[]preflight.Line{fine}, preflight.OK}, {[]preflight.Line{odd, fine}, preflight.Warning}, {[]preflight.Line{bad, odd}, preflight.Problem}} {
		var out bytes.Buffer
		err := report(c.lines, checkJSON, &out)
		if (err != nil) != (c.want == preflight.Problem) {
			t.Errorf("%s: %v", c.want, err)
		}
		var got struct {
			Result preflight.Level
			Lines  []preflight.Line
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Result != c.want || len(got.Lines) != len(c.lines) || got.Lines[0] != c.lines[0] {
			t.Errorf("%v: %s", err, out.String())
		}
	}
}
