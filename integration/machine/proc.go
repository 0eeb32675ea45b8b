//go:build linux

package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Usage is what /proc tells about a process.
type Usage struct {
	Resident    float64 // bytes
	Peak        float64 // most resident bytes since the start of the process
	Descriptors float64
	Threads     float64
	CPU         float64 // seconds since the start of the process
	ChildrenCPU float64 // seconds of the children that have ended and were waited for, and of their children
}

// ticksPerSecond is USER_HZ, the unit of the times in /proc/PID/stat, which is 100 on all architectures that Go supports.
const ticksPerSecond = 100

// UsageOf returns the usage of a process.
func UsageOf(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Usage{}, err
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return Usage{}, err
	}
	// Field 2 is the name in parentheses and may contain spaces; after it follows field 3 (proc_pid_stat(5)).
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	fields := strings.Fields(string(rest))
	if len(fields) < 22 {
		return Usage{}, errors.New("a process has ended")
	}
	field := func(number int) float64 {
		n, _ := strconv.ParseFloat(fields[number-3], 64)
		return n
	}
	return Usage{
		Resident:    field(24) * float64(os.Getpagesize()),
		Peak:        kilobytes(status)["VmHWM"],
		Descriptors: float64(len(open)),
		Threads:     field(20),
		CPU:         (field(14) + field(15)) / ticksPerSecond,
		ChildrenCPU: (field(16) + field(17)) / ticksPerSecond,
	}, nil
}

// Memory returns fields of /proc/meminfo in bytes. They are those of the whole machine, not of the network namespace.
func Memory() (map[string]float64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	return kilobytes(text), nil
}

// kilobytes returns the fields "NAME: NUMBER kB" of a file of /proc in bytes.
func kilobytes(text []byte) map[string]float64 {
	fields := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		number, ok := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if kB, err := strconv.ParseFloat(number, 64); ok && err == nil {
			fields[name] = kB * 1024
		}
	}
	return fields
}

// TCPCounter returns a counter of TCP in the network namespace of the calling thread. In /proc/net/netstat a line of names
// precedes each line of values (netstat_seq_show in net/ipv4/proc.c).
func TCPCounter(name string) (float64, error) {
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if i := slices.Index(names, name); i >= 0 && i < len(fields) && fields[0] == names[0] {
			return strconv.ParseFloat(fields[i], 64)
		}
		names = fields
	}
	return 0, fmt.Errorf("/proc/net/netstat has no %s", name)
}

// NumberIn returns the first number in a file.
func NumberIn(path string) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return 0, fmt.Errorf("%s is empty", path)
	}
	return strconv.ParseFloat(fields[0], 64)
}
