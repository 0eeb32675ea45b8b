//go:build linux

package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"

	"nfproxy/sandbox"
)

// TestRunPassesExitCode: Run returns the exit status of the child, even inside a
// sandbox.
func TestRunPassesExitCode(t *testing.T) {
	err := child(t, "run 7").Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 7 {
		t.Errorf("got %v, want exit status 7", err)
	}
}

// TestRunEnds: the child of Run receives SIGTERM when the context ends, and is
// killed when its parent is killed. The end of its output shows that it ended.
func TestRunEnds(t *testing.T) {
	for _, c := range []struct {
		signal syscall.Signal
		want   string
	}{
		{syscall.SIGTERM, "exit status 3"},
		{syscall.SIGKILL, "signal: killed"},
	} {
		t.Run(c.signal.String(), func(t *testing.T) {
			cmd := child(t, "run wait")
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			out := bufio.NewReader(pipe)
			if line, err := out.ReadString('\n'); line != "ready\n" {
				t.Fatalf("read %q, %v", line, err)
			}
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(out); len(rest) > 0 || err != nil {
				t.Errorf("read %q, %v", rest, err)
			}
			if err := cmd.Wait(); err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestRunUnprivileged: Run and a network need no privileges.
func TestRunUnprivileged(t *testing.T) {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(string(ids)); len(f) == 3 && f[2] == "1" {
		t.Skip("only one user is mapped: all of these tests run unprivileged already")
	}
	cmd := child(t, "run network")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestOutsideSandbox: a process that Run did not start cannot make its namespace
// a node.
func TestOutsideSandbox(t *testing.T) {
	cmd := child(t, "outside")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "NFPROXY_SANDBOX") })
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// play runs a child process of a test in a role and returns its exit status.
func play(role string) int {
	run := func(role string) int {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		return exitCode(sandbox.Run(ctx, []string{roleEnv + "=" + role}))
	}
	switch role {
	case "run wait":
		return run("wait")
	case "run network":
		return run("network")
	case "run 7":
		return run("7")
	case "7":
		return 7
	case "wait":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		fmt.Println("ready")
		<-ctx.Done()
		return 3
	case "network":
		return report(useNetwork())
	case "outside":
		return report(outsideSandbox())
	}
	return report(fmt.Errorf("no role %q", role))
}

func report(err error) int {
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// useNetwork creates a network in the namespace of the process and sends packets through it.
func useNetwork() error {
	node, err := sandbox.Current()
	if err != nil {
		return err
	}
	w, err := sandbox.NewNetwork(node, nodeAddrs...)
	if err != nil {
		return err
	}
	client, err := w.AddPod("client", clientAddrs...)
	if err != nil {
		return err
	}
	server, err := w.AddPod("server", serverAddrs...)
	if err != nil {
		return err
	}
	for _, addr := range server.Addrs {
		if _, err := ask(client.Namespace, server.Namespace, "tcp", "", addr); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), node.Close())
}

// outsideSandbox returns an error unless the package refuses to change the
// namespace of the process.
func outsideSandbox() error {
	node, err := sandbox.Current()
	if err != nil {
		return err
	}
	if sandbox.Inside() {
		return errors.New("Inside returns true outside a sandbox")
	}
	if _, err := sandbox.NewNetwork(node); err == nil {
		return errors.New("NewNetwork accepts a namespace that the package did not create")
	}
	return nil
}

// child returns a command that runs the test binary in a role.
func child(t *testing.T, role string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return cmd
}
