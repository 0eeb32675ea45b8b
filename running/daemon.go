// Package running finds the nfproxy daemons that run in the network namespace of the calling process. A command learns from them with
// which arguments, environment and files they were started, so that it can use their settings instead of its own.
package running

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Daemon is a process that executes `nfproxy run`.
type Daemon struct {
	PID int
	// Args are the arguments after the program's name, the first of which is "run".
	Args []string
	// Env is the environment with which the process was started, each entry as NAME=VALUE.
	Env []string
	dir string // of the process in /proc
}

const (
	// program is the name of the program in the arguments of a daemon.
	program = "nfproxy"
	// command is the daemon's command.
	command = "run"
)

// Find returns the daemons in the network namespace of the calling process, by process ID. It sees the processes of its own PID
// namespace: in a container, those of the container. It returns an error if it finds none, and may not look at a process that may be one.
//
// A process that lacks CAP_NET_ADMIN over the network namespace is no daemon, whatever its arguments are: the caller acts on the settings
// of a daemon, among them a kubeconfig, which can name a program to execute.
func Find() ([]Daemon, error) { return find("/proc") }

func find(proc string) ([]Daemon, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	here, err := namespacesOf(filepath.Join(proc, "self"))
	if err != nil {
		return nil, fmt.Errorf("find own namespaces: %w", err)
	}
	self, _ := os.Stat(filepath.Join(proc, "self/exe"))
	var all []Daemon
	var denied error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		d, err := read(filepath.Join(proc, e.Name()), pid, here, self)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errEnded) {
			continue
		}
		if err != nil {
			denied = errors.Join(denied, err)
		}
		if d != nil {
			all = append(all, *d)
		}
	}
	if len(all) == 0 && denied != nil {
		return nil, denied
	}
	slices.SortFunc(all, func(a, b Daemon) int { return a.PID - b.PID })
	return all, nil
}

// errEnded is the error of a process that has ended and is not yet waited for.
var errEnded = errors.New("the process has ended")

// namespaces are the network namespace and the user namespace of a process.
type namespaces struct{ network, user string }

func namespacesOf(dir string) (n namespaces, err error) {
	if n.network, err = os.Readlink(filepath.Join(dir, "ns/net")); err == nil {
		n.user, err = os.Readlink(filepath.Join(dir, "ns/user"))
	}
	return n, err
}

// read returns the process if it is a daemon in the namespaces here, and nil if it is not. self is the file of this program.
func read(dir string, pid int, here namespaces, self os.FileInfo) (*Daemon, error) {
	args, err := readList(filepath.Join(dir, "cmdline"))
	if err != nil || len(args) < 2 || args[1] != command {
		return nil, err
	}
	if exe, err := os.Stat(filepath.Join(dir, "exe")); filepath.Base(args[0]) != program && (err != nil || !os.SameFile(exe, self)) {
		return nil, nil
	}
	d := &Daemon{PID: pid, Args: args[1:], dir: dir}
	there, err := namespacesOf(dir)
	administers := false
	if err == nil && there == here {
		administers, err = hasNetAdmin(dir)
	}
	if err == nil && administers {
		d.Env, err = readList(filepath.Join(dir, "environ"))
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("process %d runs %q, and its settings cannot be read: %w; run as the user of that process, or as root",
			pid, strings.Join(args[:2], " "), err)
	case err != nil:
		return nil, err
	case !administers:
		return nil, nil
	}
	return d, nil
}

// hasNetAdmin reports whether a process has CAP_NET_ADMIN in its user namespace.
func hasNetAdmin(dir string) (bool, error) {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if errors.Is(err, unix.ESRCH) {
		return false, errEnded
	}
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(line, ":"); name == "CapEff" {
			effective, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return effective&(1<<unix.CAP_NET_ADMIN) != 0, err
		}
	}
	return false, nil
}

// readList returns the strings in a file of /proc, each of which ends with a zero byte.
func readList(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, unix.ESRCH) {
		return nil, errEnded
	}
	if err != nil || len(content) == 0 {
		return nil, err
	}
	var all []string
	for s := range bytes.SplitSeq(bytes.TrimSuffix(content, []byte{0}), []byte{0}) {
		all = append(all, string(s))
	}
	return all, nil
}

// ReadFile returns the content of a file as the daemon would read it: with its working directory, and in its container.
func (d Daemon) ReadFile(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		directory, err := os.Readlink(filepath.Join(d.dir, "cwd"))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		path = filepath.Join(directory, path)
	}
	content, err := os.ReadFile(filepath.Join(d.dir, "root", path))
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err // the path below /proc means nothing to the user
		}
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return content, nil
}

// AdoptEnvironment gives this process the environment of the daemon, so that it understands the daemon's arguments as the daemon does.
func (d Daemon) AdoptEnvironment() error {
	os.Clearenv()
	for _, entry := range d.Env {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("environment of the nfproxy daemon, process %d: %w", d.PID, err)
		}
	}
	return nil
}

// AdoptDirectory gives this process the working directory of the daemon, so that relative paths lead to the same files. It returns an
// error if the daemon has another root directory: then it runs in a container, and this process does not.
func (d Daemon) AdoptDirectory() error {
	if same, err := d.sharesDirectory("root", "/"); err != nil {
		return err
	} else if !same {
		return fmt.Errorf("the nfproxy daemon, process %d, runs in a container with files of its own: run this command there", d.PID)
	}
	if same, err := d.sharesDirectory("cwd", "."); err != nil || same {
		return err
	}
	return os.Chdir(filepath.Join(d.dir, "cwd"))
}

// sharesDirectory reports whether a directory of the daemon in /proc is one of this process.
func (d Daemon) sharesDirectory(theirs, ours string) (bool, error) {
	here, err := os.Stat(ours)
	if err != nil {
		return false, err
	}
	there, err := os.Stat(filepath.Join(d.dir, theirs) + "/")
	if err != nil {
		return false, fmt.Errorf("find the files of the nfproxy daemon, process %d: %w", d.PID, err)
	}
	return os.SameFile(here, there), nil
}
