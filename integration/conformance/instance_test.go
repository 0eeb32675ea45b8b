//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// namePrefix begins the names of this package's directories and cgroups. The process that cleans up follows, by its number.
const namePrefix = "nfproxy-conformance-"

// instance is one run of this package's tests: what it leaves has its name.
type instance struct {
	name string
	dir  string // all temporary files
}

// newInstance makes the directory of a run that this process cleans up.
func newInstance() (instance, error) {
	i := instanceNamed(namePrefix + strconv.Itoa(os.Getpid()))
	return i, os.Mkdir(i.dir, 0o755)
}

// thisInstance returns the run to which this process belongs.
func thisInstance() instance { return instanceNamed(os.Getenv(instanceEnv)) }

// instanceNamed returns the run with a name. Its files are in /tmp whatever TMPDIR is, because the paths of sockets are short.
func instanceNamed(name string) instance { return instance{name, "/tmp/" + name} }

// apiSocket is the path of a socket at which the API server can be reached from any namespace.
func (i instance) apiSocket() string { return filepath.Join(i.dir, "api.sock") }

// removeRemains removes the directories and cgroups of a run, or of all runs whose process is gone.
func removeRemains(name string) {
	remains, _ := filepath.Glob("/tmp/" + namePrefix + "*")
	groups, err := ownCgroups()
	if err == nil {
		for _, g := range groups {
			found, _ := filepath.Glob(filepath.Join(g.dir, namePrefix+"*"))
			remains = append(remains, found...)
		}
	}
	for _, path := range remains {
		if of, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), namePrefix), "-"); namePrefix+of != name && (name != "" || isProcess(of)) {
			continue
		}
		remove := os.RemoveAll
		if strings.HasPrefix(path, cgroupRoot) {
			remove = removeCgroup
		}
		if err := remove(path); err != nil {
			fmt.Fprintf(os.Stderr, "clean up after %s: %v\n", filepath.Base(path), err)
		}
	}
}

// isProcess reports whether there is a process with a number.
func isProcess(number string) bool {
	_, err := os.Stat("/proc/" + number)
	return err == nil
}

// removeCgroup removes a cgroup with all that it contains. Processes that are ending leave it within moments.
func removeCgroup(dir string) error {
	var err error
	for range 100 {
		if err = removeCgroupNow(dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func removeCgroupNow(dir string) error {
	var below []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			below = append(below, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for i := len(below) - 1; i >= 0 && err == nil; i-- {
		if err = os.Remove(below[i]); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return err
}

// forward connects each connection that is accepted with one that dial opens.
func forward(accept net.Listener, dial func() (net.Conn, error)) {
	for {
		client, err := accept.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := dial()
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				io.Copy(server, client)
				server.Close()
			}()
			io.Copy(client, server)
		}()
	}
}
