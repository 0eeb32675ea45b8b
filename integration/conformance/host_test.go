//go:build linux

package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/sandbox"
)

// The roles of the two processes of a host.
const (
	keeperRole = "keeper" // outside the host's namespaces but in that of its network: starts the first process, and ends it
	firstRole  = "first"  // the first process
)

// hostConfig says what a host is. The test passes it to the keeper, and the keeper to the first process, as JSON on standard input.
type hostConfig struct {
	Name    string    // host name
	Dir     string    // its files
	Cgroups []string  // its own ones
	Daemons []program // all but the last one have a socket for which the next one waits
	Imports []string  // archives of images
	Once    *program  // instead of daemons: the host ends with this program
}

// program is a program that runs on a host.
type program struct {
	Name   string   // of its log, in the host's directory
	Args   []string // the first one is its path
	Env    []string
	Socket string // accepts connections when the program is ready
}

// host is a set of namespaces with processes in them: a node, or where the tests' program runs. Its network namespace is given.
type host struct {
	config hostConfig
	ns     *sandbox.Namespace
	keeper *exec.Cmd
	first  int // process number of the first process
	exited chan struct{}
	err    error // of the keeper; valid once exited is closed
}

// startHost starts a host, which ends with the test at the latest, and returns when its programs run.
func startHost(t testing.TB, ns *sandbox.Namespace, config hostConfig) *host {
	t.Helper()
	h := &host{config: config, ns: ns, exited: make(chan struct{})}
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.config.Cgroups, err = newCgroups(thisInstance().name + "-" + config.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.end(t)
		if t.Failed() {
			h.logEnds(t)
		}
	})
	if err := h.start(); err != nil {
		t.Fatalf("start host %s: %v", config.Name, err)
	}
	return h
}

// start starts the keeper and waits for its word that the programs run.
func (h *host) start() error {
	config, err := json.Marshal(h.config)
	if err != nil {
		return err
	}
	output, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	h.keeper = exec.Command("/proc/self/exe")
	h.keeper.Env = append(os.Environ(), roleEnv+"="+keeperRole)
	h.keeper.Stdin = bytes.NewReader(config)
	h.keeper.Stdout, h.keeper.Stderr = theirs, os.Stderr
	h.keeper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() { // its thread stays in the network namespace, and alive, for as long as the keeper runs
		defer close(h.exited)
		h.err = h.ns.Do(func() error {
			err := h.keeper.Start()
			theirs.Close()
			started <- err
			if err != nil {
				return err
			}
			return h.keeper.Wait()
		})
	}()
	if err := <-started; err != nil {
		output.Close()
		return err
	}
	return h.awaitReady(output)
}

// awaitReady reads the number of the first process from the keeper, until it prints that the programs run.
func (h *host) awaitReady(output *os.File) error {
	defer output.Close()
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if lines.Text() == "ready" {
			return nil
		}
		if _, err := fmt.Sscanf(lines.Text(), "first %d", &h.first); err != nil {
			return fmt.Errorf("the keeper printed %q", lines.Text())
		}
	}
	<-h.exited
	return fmt.Errorf("it ended before it was ready: %v", h.err)
}

// end ends the host and removes its cgroups. Ending it twice is not an error.
func (h *host) end(t testing.TB) {
	t.Helper()
	h.stop()
	for _, dir := range h.config.Cgroups {
		if err := removeCgroup(dir); err != nil {
			t.Error(err)
		}
	}
}

// stop ends the host and waits for its end. Stopping it twice is not an error.
func (h *host) stop() {
	if h.keeper == nil || h.keeper.Process == nil {
		return
	}
	h.keeper.Process.Signal(unix.SIGTERM) // fails if it has ended
	<-h.exited
}

// logEnds prints the ends of the host's logs.
func (h *host) logEnds(t testing.TB) {
	logs, _ := filepath.Glob(filepath.Join(h.config.Dir, "*.log"))
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Log(err)
			continue
		}
		const most = 4 << 10
		t.Logf("end of %s of %s:\n%s", filepath.Base(path), h.config.Name, text[max(0, len(text)-most):])
	}
}

// playHost is the main function of a process of a host. It returns the exit status.
func playHost(role string) int {
	var config hostConfig
	if err := json.NewDecoder(os.Stdin).Decode(&config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	play := keep
	if role == firstRole {
		play = first
	}
	status, err := play(config)
	if err != nil {
		fmt.Fprintf(os.Stderr, "host %s: %v\n", config.Name, err)
		return 1
	}
	return status
}

// keep joins the host's cgroups and starts the first process in new namespaces, among them one of cgroups, which shows these as the
// root. It kills the first process at SIGTERM, and returns when nothing is left of the host but its network namespace.
func keep(config hostConfig) (int, error) {
	if err := joinCgroups(config.Cgroups); err != nil {
		return 1, err
	}
	text, err := json.Marshal(config)
	if err != nil {
		return 1, err
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+firstRole)
	cmd.Stdin = bytes.NewReader(text)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		Pdeathsig:  unix.SIGKILL,
	}
	runtime.LockOSThread() // the parent death signal is sent when this thread ends (golang.org/issue/27505)
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	fmt.Println("first", cmd.Process.Pid)
	go func() {
		<-end
		cmd.Process.Kill()
	}()
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}
