//go:build linux

package sandbox_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nfproxy/sandbox"
)

// roleEnv names the environment variable that makes the test binary play a role
// instead of running the tests.
const roleEnv = "SANDBOX_TEST_ROLE"

// TestMain runs the tests in a namespace of their own.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	os.Exit(sandbox.Main(m.Run))
}

// exitCode returns the exit status for an error of Run.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	return 0
}

var (
	nodeAddrs   = addrs("192.168.7.1", "fd00:7::1")
	clientAddrs = addrs("10.0.1.79", "fd00:10:0:1::79")
	serverAddrs = addrs("10.244.2.68", "fd00:10:244::2")
)

func addrs(texts ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, s := range texts {
		parsed = append(parsed, netip.MustParseAddr(s))
	}
	return parsed
}

func namespace(t *testing.T) *sandbox.Namespace {
	t.Helper()
	n, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func network(t *testing.T, nodeAddrs ...netip.Addr) *sandbox.Network {
	t.Helper()
	w, err := sandbox.NewNetwork(namespace(t), nodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func pod(t *testing.T, w *sandbox.Network, name string, addrs ...netip.Addr) *sandbox.Pod {
	t.Helper()
	p, err := w.AddPod(name, addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t *testing.T, n *sandbox.Namespace, path string) string {
	t.Helper()
	var text []byte
	err := n.Do(func() (err error) {
		text, err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func second[T any](_ T, err error) error { return err }

// list returns the names of the links in n.
func linkNames(t *testing.T, n *sandbox.Namespace) []string {
	t.Helper()
	var names []string
	err := n.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names = append(names, l.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// descriptors returns the namespaces and sockets to which open descriptors of
// this process refer.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		to, _ := os.Readlink(e)
		if strings.HasPrefix(to, "net:") || strings.HasPrefix(to, "socket:") {
			open = append(open, to)
		}
	}
	slices.Sort(open)
	return open
}
