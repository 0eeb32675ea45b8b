//go:build linux

package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is the cgroup of this process in one hierarchy of cgroup v1 (cgroups(7)).
type hierarchy struct {
	controllers string // as in /proc/self/cgroup
	dir         string
}

// name returns the name of the directory at which the hierarchy is mounted.
func (h hierarchy) name() string { return strings.TrimPrefix(h.controllers, "name=") }

// ownCgroups returns the cgroups of this process, one in each hierarchy.
func ownCgroups() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return parseCgroups(string(text), func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	})
}

// parseCgroups reads the text of /proc/self/cgroup.
func parseCgroups(text string, exists func(dir string) bool) ([]hierarchy, error) {
	var all []hierarchy
	var controllers []string
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] == "" { // without controllers: cgroup v2
			continue
		}
		h := hierarchy{controllers: fields[1]}
		if h.dir = filepath.Join(cgroupRoot, h.name(), fields[2]); exists(h.dir) {
			all = append(all, h)
			controllers = append(controllers, strings.Split(fields[1], ",")...)
		}
	}
	for _, needed := range []string{"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"} {
		if !slices.Contains(controllers, needed) {
			return nil, fmt.Errorf("the cluster needs the cgroup v1 controller %s: this machine has %q", needed, controllers)
		}
	}
	return all, nil
}

// newCgroups creates a cgroup with a name below each of this process, and returns their directories.
func newCgroups(name string) ([]string, error) {
	own, err := ownCgroups()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, h := range own {
		dir := filepath.Join(h.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		if slices.Contains(strings.Split(h.controllers, ","), "cpuset") { // no process can join before these are set
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := copyFile(filepath.Join(h.dir, file), filepath.Join(dir, file)); err != nil {
					return nil, err
				}
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// joinCgroups moves this process to cgroups.
func joinCgroups(dirs []string) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}
