//go:build linux

// Package machine reads what /proc tells about the machine and its processes, for the programs that measure.
package machine

import (
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Commit returns the commit of the working tree, with "-dirty" if files differ from it.
func Commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// KernelRelease returns the release of the running kernel, as uname -r prints it.
func KernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// Processor returns the model of the processor.
func Processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
