//go:build linux

package conformance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/sandbox"
)

// The roles of the two processes of a machine.
const (
	keeperRole = "keeper" // outside the machine's namespaces but that of the network: starts the first process, and ends it
	firstRole  = "first"  // the first process
)

// machineConfig says what a machine is. The test passes it to the keeper, and the keeper to the first process, as JSON on standard input.
type machineConfig struct {
	Name    string    // host name
	Dir     string    // its files
	Cgroups []string  // its own ones
	Daemons []program // all but the last one have a socket for which the next one waits
	Imports []string  // archives of images
	Once    *program  // instead of daemons: the machine ends with this program
}

// program is a program that runs in a machine.
type program struct {
	Name   string   // of its log, below the machine's directory
	Args   []string // the first one is its path
	Env    []string
	Socket string // accepts connections when the program is ready
}

// machine is a set of namespaces with processes in them. Its network namespace is given.
type machine struct {
	config machineConfig
	ns     *sandbox.Namespace
	keeper *exec.Cmd
	first  int // process number of the first process
	exited chan struct{}
	err    error // of the keeper; valid once exited is closed
}

// startMachine starts a machine, which ends with the test at the latest, and returns when its daemons run.
func startMachine(t testing.TB, ns *sandbox.Namespace, config machineConfig) *machine {
	t.Helper()
	m := &machine{config: config, ns: ns, exited: make(chan struct{})}
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.config.Cgroups, err = newCgroups(thisInstance().name + "-" + config.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.stop()
		for _, dir := range m.config.Cgroups {
			if err := removeCgroup(dir); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			m.logEnds(t)
		}
	})
	if err := m.start(); err != nil {
		t.Fatalf("start machine %s: %v", config.Name, err)
	}
	return m
}

// start starts the keeper and waits for the number of the first process, and for its word that the daemons run.
func (m *machine) start() error {
	config, err := json.Marshal(m.config)
	if err != nil {
		return err
	}
	m.keeper = exec.Command("/proc/self/exe")
	m.keeper.Env = append(os.Environ(), roleEnv+"="+keeperRole)
	m.keeper.Stdin = strings.NewReader(string(config))
	m.keeper.Stderr = os.Stderr
	m.keeper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	output, err := m.keeper.StdoutPipe()
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	go func() { // its thread stays in the network namespace, and alive, for as long as the keeper runs
		defer close(m.exited)
		m.err = m.ns.Do(func() error {
			err := m.keeper.Start()
			started <- err
			if err != nil {
				return err
			}
			<-m.exitedReading(output, started)
			return m.keeper.Wait()
		})
	}()
	if err := <-started; err != nil {
		return err
	}
	if err := <-started; err != nil {
		<-m.exited
		return errors.Join(err, m.err)
	}
	return nil
}

// exitedReading reads what the keeper prints, sends to ready when the machine is, and closes the channel at the end.
func (m *machine) exitedReading(output io.Reader, ready chan<- error) <-chan struct{} {
	end := make(chan struct{})
	go func() {
		defer close(end)
		lines := bufio.NewScanner(output)
		said := false
		for lines.Scan() {
			if n, err := fmt.Sscanf(lines.Text(), "first %d", &m.first); n == 1 && err == nil {
				continue
			}
			if lines.Text() == "ready" && !said {
				said = true
				ready <- nil
			}
		}
		if !said {
			ready <- errors.New("it ended before it was ready")
		}
	}()
	return end
}

// stop ends the machine and waits for its end. Stopping it twice is not an error.
func (m *machine) stop() {
	if m.keeper == nil || m.keeper.Process == nil {
		return
	}
	m.keeper.Process.Signal(unix.SIGTERM) // fails if it has ended
	<-m.exited
}

// logEnds prints the ends of the machine's logs.
func (m *machine) logEnds(t testing.TB) {
	logs, _ := filepath.Glob(filepath.Join(m.config.Dir, "*.log"))
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Log(err)
			continue
		}
		const most = 4 << 10
		t.Logf("end of %s of %s:\n%s", filepath.Base(path), m.config.Name, text[max(0, len(text)-most):])
	}
}

// playMachine is the main function of a process of a machine. It returns the exit status.
func playMachine(role string) int {
	var config machineConfig
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
		fmt.Fprintf(os.Stderr, "machine %s: %v\n", config.Name, err)
		return 1
	}
	return status
}

// keep joins the machine's cgroups and starts the first process in new namespaces, among them one of cgroups, which shows these as the
// root. It kills the first process at SIGTERM, and returns when nothing is left of the machine but its network namespace.
func keep(config machineConfig) (int, error) {
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
	cmd.Stdin = strings.NewReader(string(text))
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
