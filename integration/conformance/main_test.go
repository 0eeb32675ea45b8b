//go:build linux

package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"nfproxy/sandbox"
)

// Environment variables by which a process of this package tells another one what to do.
const (
	roleEnv     = "NFPROXY_CONFORMANCE_ROLE"     // of a process of a host; empty: a test
	instanceEnv = "NFPROXY_CONFORMANCE_INSTANCE" // the name of files and cgroups of this run
	apiPortEnv  = "NFPROXY_CONFORMANCE_API_PORT" // the port of the API server outside the sandbox
)

// TestMain runs the tests in a network namespace of their own and in the module's root. Outside it, a process waits for them that
// forwards connections to the API server and cleans up.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(playHost(role))
	}
	if !sandbox.Inside() {
		os.Exit(outside())
	}
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// outside runs the tests and cleans up before and afterwards. It returns the exit status.
func outside() int {
	status, err := runInside()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

func runInside() (status int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	removeRemains("")
	i, err := newInstance()
	if err != nil {
		return 1, err
	}
	defer removeRemains(i.name)
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 1, err
	}
	defer api.Close()
	go forward(api, func() (net.Conn, error) { return net.Dial("unix", i.apiSocket()) })
	port := api.Addr().(*net.TCPAddr).Port
	return 0, sandbox.Run(ctx, []string{instanceEnv + "=" + i.name, "TMPDIR=" + i.dir, fmt.Sprintf("%s=%d", apiPortEnv, port)}, os.Args[1:]...)
}
