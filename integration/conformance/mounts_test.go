//go:build linux

package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kubeletSysctls are parameters of the whole machine that kubelet insists on (setupKernelTunables in pkg/kubelet/cm). Each node has files
// of its own in their places, so that the machine's stay as they are.
var kubeletSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// arrangeMounts gives a host its view of the files: the processes, network links and cgroups of its namespaces, and for a node its own
// /run, /var/lib and /var/log.
func arrangeMounts(config hostConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte(config.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := mount("proc", "/proc", "proc", ""); err != nil {
		return err
	}
	if config.Once != nil {
		return nil
	}
	for _, step := range []func(hostConfig) error{mountSys, mountOwn, mountSysctls} {
		if err := step(config); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil { // for volumes with mount propagation
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// mountSys mounts /sys of the network namespace, and the hierarchies of the cgroup namespace.
func mountSys(hostConfig) error {
	own, err := ownCgroups()
	if err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", ""); err != nil {
		return err
	}
	if err := mount("tmpfs", cgroupRoot, "tmpfs", "mode=755"); err != nil {
		return err
	}
	for _, h := range own {
		options := h.controllers
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		target := filepath.Join(cgroupRoot, h.name())
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		if err := mount("cgroup", target, "cgroup", options); err != nil {
			return err
		}
	}
	return nil
}

// mountOwn mounts the directories that a node does not share with the machine.
func mountOwn(config hostConfig) error {
	if err := mount("tmpfs", "/run", "tmpfs", "mode=755"); err != nil {
		return err
	}
	if err := os.Mkdir("/run/lock", 0o755); err != nil {
		return err
	}
	for _, path := range []string{"/var/lib", "/var/log"} {
		own := filepath.Join(config.Dir, strings.ReplaceAll(path[1:], "/", "-"))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := bind(own, path); err != nil {
			return err
		}
	}
	return nil
}

// mountSysctls mounts files over the sysctls of the whole machine.
func mountSysctls(config hostConfig) error {
	for name, value := range kubeletSysctls {
		path := "/proc/sys/" + name
		if _, err := os.Stat(path); err != nil {
			continue // kubelet does not need one that the kernel does not have
		}
		own := filepath.Join(config.Dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(own, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := bind(own, path); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind, options string) error {
	if err := unix.Mount(source, target, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", kind, target, err)
	}
	return nil
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}
